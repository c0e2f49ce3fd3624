"""What may stand in a ledger, one frozen class an entry, and its exact text.

Reading is strict, and the inverse of writing. Which entry may follow which is `book`'s business.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from types import NoneType
from typing import Any, Final, TypeAlias, cast, get_args

from secfed.errors import LedgerError
from secfed.ids import SITE_PATTERN, ClientId, Digest, JobId
from secfed.privacy import events
from secfed.privacy.events import Event, Relation, Unit
from secfed.privacy.rdp import FILTER_ORDERS
from secfed.store.jsontext import Json

__all__ = [
    "HANDOVER_TYPE",
    "PUBLIC_N_MAX",
    "Body",
    "Budget",
    "Handover",
    "LedgerEntry",
    "Opening",
    "Reserved",
    "Sent",
    "Voided",
    "read_body",
    "write_body",
]

PUBLIC_N_MAX = 10**10
"""Most units that a site may state: a default delta must still fit into decimal text."""

Body: TypeAlias = Mapping[str, Json]

_HEX = re.compile(r"[0-9a-f]{64}")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_ROUND_MAX = 10**6
_NUMBER_MAX = 2**63 - 1
_COLUMN_MAX = 1000
_REASON_MAX = 200
"""Longest reason, in characters; printable, so that it cannot disturb a terminal."""


@dataclass(frozen=True, slots=True)
class Budget:
    """All that may ever be spent on one data set; decimal text, so that it is exact.

    Attributes:
        epsilon: The cap.
        delta: For the whole budget; below 1 / public_n.
        public_n: The site's own public statement of how many units it has at least; never the count.
    """

    epsilon: str
    delta: str
    public_n: int

    def __post_init__(self) -> None:
        events.check_positive_decimal("budget.epsilon", self.epsilon)
        events.check_positive_decimal("budget.delta", self.delta)
        events.check_whole("public_n", self.public_n, PUBLIC_N_MAX)
        if Decimal(self.delta) * self.public_n >= 1:
            raise LedgerError(
                "budget.delta must be below 1 / public_n: above it, publishing one unit is allowed"
            )


@dataclass(frozen=True, slots=True)
class Opening:
    """First entry: whose data this is about, and what was promised.

    Attributes:
        ledger: 32 random bytes in hexadecimal, made once; never computed from the data.
        budget: None only for a scratch ledger, which takes non-private releases and nothing else.
        records_per_unit: k of the data set; no event may count on more.
        unit_column: The column of the site's file that names the person, None for records: charges made
            for one column's persons say nothing about another's. It stays at the site, as the ledger does.
        filter_orders: Orders of the gate, fixed before anything is spent.
        at: UTC, to the second.
    """

    ledger: str
    site: ClientId
    unit: Unit
    records_per_unit: int
    relation: Relation
    budget: Budget | None
    at: str
    unit_column: str | None = None
    filter_orders: tuple[int, ...] = FILTER_ORDERS

    def __post_init__(self) -> None:
        _matches("ledger", self.ledger, _HEX)
        _matches("site", self.site, SITE_PATTERN)
        events.check_one_of("unit", self.unit, get_args(Unit))
        events.check_whole("records_per_unit", self.records_per_unit, 1024)
        events.check_one_of("relation", self.relation, get_args(Relation))
        _matches("at", self.at, _TIME)
        column = self.unit_column
        if column is not None and (self.unit == "record" or not 0 < len(column) <= _COLUMN_MAX):
            raise LedgerError(
                f"unit_column names a person's column in 1 to {_COLUMN_MAX} characters; a record has none"
            )
        orders = self.filter_orders
        if not 1 <= len(orders) <= 32 or list(orders) != sorted(set(orders)) or orders[0] < 2:
            raise LedgerError("filter_orders must be 1 to 32 rising whole numbers from 2")
        for order in orders:
            events.check_whole("filter_orders", order, 256)


@dataclass(frozen=True, slots=True)
class Reserved:
    """A charge: durable before the first private batch is drawn. Its entry's number is its name."""

    job: JobId
    round: int
    event: Event
    plan: Digest
    at: str

    def __post_init__(self) -> None:
        _matches("job", self.job, SITE_PATTERN)
        events.check_whole("round", self.round, _ROUND_MAX)
        _matches("at", self.at, _TIME)


@dataclass(frozen=True, slots=True)
class Sent:
    """Durable before the first masked byte of an attempt leaves.

    Attributes:
        reservation: Number of the entry that reserved it.
        contribution: Keyed digest of the contribution, which is made once for each sum of a round.
    """

    reservation: int
    job: JobId
    round: int
    sum_index: int
    attempt: int
    contribution: Digest
    at: str

    def __post_init__(self) -> None:
        _natural("reservation", self.reservation)
        _natural("sum", self.sum_index)
        _natural("attempt", self.attempt)
        _matches("at", self.at, _TIME)


@dataclass(frozen=True, slots=True)
class Voided:
    """A reservation under which nothing that depends on data left the site.

    No code here writes one: after a crash nobody can show that nothing left, and whoever knows that a round
    was called off before its first batch spent a round's epsilon at the most. What holds one is read.
    """

    reservation: int
    job: JobId
    round: int
    reason: str
    at: str

    def __post_init__(self) -> None:
        _natural("reservation", self.reservation)
        if not 0 < len(self.reason) <= _REASON_MAX or not self.reason.isprintable():
            raise LedgerError(f"reason must be one printable line of at most {_REASON_MAX} characters")
        _matches("at", self.at, _TIME)


@dataclass(frozen=True, slots=True)
class Handover:
    """The site's identity key is another from here on; the old key signs this entry, as all before it.

    Attributes:
        old: Public key in hexadecimal. new: The one that signs from here on.
        accepted: The new key's signature, in hexadecimal, under the head that it takes over.
    """

    old: str
    new: str
    accepted: str
    at: str

    def __post_init__(self) -> None:
        _matches("old", self.old, _HEX)
        _matches("new", self.new, _HEX)
        _matches("accepted", self.accepted, _SIGNATURE)
        _matches("at", self.at, _TIME)


LedgerEntry: TypeAlias = Opening | Reserved | Sent | Voided | Handover

HANDOVER_TYPE = "handover"


def write_body(entry: LedgerEntry) -> Body:
    """The entry as a journal's body; `read_body` gives the same entry back."""
    match entry:
        case Opening(budget=budget):
            terms: Body | None = None
            if budget is not None:
                terms = {"epsilon": budget.epsilon, "delta": budget.delta, "public_n": budget.public_n}
            return {
                "type": "open",
                "ledger": entry.ledger,
                "site": entry.site,
                "unit": entry.unit,
                "records_per_unit": entry.records_per_unit,
                "relation": entry.relation,
                "unit_column": entry.unit_column,
                "budget": terms,
                "filter_orders": list(entry.filter_orders),
                "at": entry.at,
            }
        case Reserved():
            return {
                "type": "reserve",
                "job": entry.job,
                "round": entry.round,
                "event": cast(Body, events.to_json(entry.event)),
                "plan": entry.plan.hex(),
                "at": entry.at,
            }
        case Sent():
            return {
                "type": "sent",
                "reservation": entry.reservation,
                "job": entry.job,
                "round": entry.round,
                "sum": entry.sum_index,
                "attempt": entry.attempt,
                "contribution": entry.contribution.hex(),
                "at": entry.at,
            }
        case Voided():
            return {
                "type": "void",
                "reservation": entry.reservation,
                "job": entry.job,
                "round": entry.round,
                "reason": entry.reason,
                "at": entry.at,
            }
        case Handover():
            return {
                "type": HANDOVER_TYPE,
                "old": entry.old,
                "new": entry.new,
                "accepted": entry.accepted,
                "at": entry.at,
            }


_WHOLE, _TEXT = (int,), (str,)

_FORMS: Final[Mapping[str, Mapping[str, tuple[type, ...]]]] = {
    "open": {
        "type": _TEXT,
        "ledger": _TEXT,
        "site": _TEXT,
        "unit": _TEXT,
        "records_per_unit": _WHOLE,
        "relation": _TEXT,
        "unit_column": (str, NoneType),
        "budget": (dict, NoneType),
        "filter_orders": (list,),
        "at": _TEXT,
    },
    "reserve": {
        "type": _TEXT, "job": _TEXT, "round": _WHOLE, "event": (dict,), "plan": _TEXT, "at": _TEXT,
    },
    "sent": {
        "type": _TEXT,
        "reservation": _WHOLE,
        "job": _TEXT,
        "round": _WHOLE,
        "sum": _WHOLE,
        "attempt": _WHOLE,
        "contribution": _TEXT,
        "at": _TEXT,
    },
    "void": {
        "type": _TEXT, "reservation": _WHOLE, "job": _TEXT, "round": _WHOLE, "reason": _TEXT, "at": _TEXT,
    },
    HANDOVER_TYPE: {"type": _TEXT, "old": _TEXT, "new": _TEXT, "accepted": _TEXT, "at": _TEXT},
}  # fmt: skip
"""Every field of every entry, with the types that `jsontext.parse` may give it; a truth value is no int."""

_BUDGET: Final[Mapping[str, tuple[type, ...]]] = {"epsilon": _TEXT, "delta": _TEXT, "public_n": _WHOLE}


def read_body(body: Body) -> LedgerEntry:
    """Read an entry strictly.

    Args:
        body: As `jsontext.parse` gives it.

    Raises:
        LedgerError: An unknown entry, a missing or unknown field, a wrong type or range.
    """
    kind = body.get("type")
    form = _FORMS.get(kind) if isinstance(kind, str) else None
    if form is None:
        raise LedgerError(f"unknown ledger entry {kind!r}")
    fields = _checked(body, form)
    match kind:
        case "open":
            return Opening(
                ledger=fields["ledger"],
                site=ClientId(fields["site"]),
                unit=fields["unit"],
                records_per_unit=fields["records_per_unit"],
                relation=fields["relation"],
                unit_column=fields["unit_column"],
                budget=_read_budget(fields["budget"]),
                filter_orders=tuple(fields["filter_orders"]),
                at=fields["at"],
            )
        case "reserve":
            return Reserved(
                job=JobId(fields["job"]),
                round=fields["round"],
                event=events.from_json(fields["event"]),
                plan=_digest("plan", fields["plan"]),
                at=fields["at"],
            )
        case "sent":
            return Sent(
                reservation=fields["reservation"],
                job=JobId(fields["job"]),
                round=fields["round"],
                sum_index=fields["sum"],
                attempt=fields["attempt"],
                contribution=_digest("contribution", fields["contribution"]),
                at=fields["at"],
            )
        case "void":
            return Voided(
                reservation=fields["reservation"],
                job=JobId(fields["job"]),
                round=fields["round"],
                reason=fields["reason"],
                at=fields["at"],
            )
        case _:
            return Handover(
                old=fields["old"], new=fields["new"], accepted=fields["accepted"], at=fields["at"]
            )


def _read_budget(terms: Body | None) -> Budget | None:
    if terms is None:
        return None
    fields = _checked(terms, _BUDGET)
    return Budget(fields["epsilon"], fields["delta"], fields["public_n"])


def _checked(body: Body, form: Mapping[str, tuple[type, ...]]) -> Mapping[str, Any]:
    """The body itself, once it has all fields of a form, each of its type, and no others."""
    for name, types in form.items():
        if type(body.get(name, _MISSING)) not in types:
            raise LedgerError(f"field {name!r} is missing or of a wrong type")
    if len(body) != len(form):
        raise LedgerError(f"unknown fields: {', '.join(sorted(body.keys() - form.keys()))}")
    return body


_MISSING: Final = object()
"""What no JSON holds, null included."""


def _digest(name: str, text: str) -> Digest:
    """32 bytes in lower-case hexadecimal."""
    _matches(name, text, _HEX)
    return Digest(bytes.fromhex(text))


def _matches(name: str, value: str, pattern: re.Pattern[str]) -> None:
    if not pattern.fullmatch(value):
        raise LedgerError(f"{name} has a wrong form")


def _natural(name: str, value: int) -> None:
    if not 0 <= value <= _NUMBER_MAX:
        raise LedgerError(f"{name} is out of range")

"""What must hold of a federation, one function an invariant, named after it.

| function | called where it can change |
|---|---|
| `i1_charge_before_release` | training begins; a masked vector leaves |
| `i2_nothing_is_lost_in_silence` | a round has ended |
| `i3_the_sum_is_of_those_listed` | a round was published; its folder was read |
| `i4_one_kind_of_share`, `at_most_one_sum`, `never_fewer_than_m` | shares or a masked vector leave |
| `i5_one_mask_one_plaintext` | a masked vector leaves |
| `i6_published_never_changes` | an outcome is told, countersigned or read; a folder is read |
| `i7_ledger_only_grows`, `i7_ledger_is_sound` | training begins; a masked vector leaves; the end |
| `i8_the_client_decides` | training begins; a masked vector leaves |
| `i9_no_output_below_the_floors` | a survivor set is signed; a round was published |
| `i10_clocks_never_permit` | training begins; an advert or a masked vector leaves |
| `i11_agreed_before_masking` | a manifest is told; an advert or a masked vector leaves |
| `no_downgrade` | a site took a roster, or read its own at a start |
| `nobody_revoked` | an advert leaves; a round was published |

Nothing else can change what a function reads: each call gets the event and the facts that it is held
against, and a broken invariant is an `AssertionError` that begins with its name. `at_most_one_sum` and
`never_fewer_than_m` are the trust statement itself, for every choice of members that may collude.

Rosters may change in the middle of a round. "A members" are then any set of identity keys of which none
of the rosters that the round's attempts name lists more active ones than its A: a site whose key was
exchanged is another holder of what is dealt to it, and the same owner of its vector. "The roster" of I11
is the newest that a site ever took, at the moment in which it joins an attempt; the attempt ends under it.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from simfed.knowledge import Knowledge

from secfed.crypto.kdf import digest
from secfed.crypto.labels import Label
from secfed.encoding import ring
from secfed.identity.roles import Role
from secfed.identity.roster import Roster
from secfed.ids import ClientId, Digest
from secfed.privacy.ledger import Verdict
from secfed.rounds.jobs import Ending
from secfed.secagg.manifest import Manifest

Sites = frozenset[ClientId]
Keys = frozenset[bytes]
"""Identity keys: who may collude."""

Group = tuple[Keys, int]
"""The active clients of a roster, and its A."""


def i1_charge_before_release(
    entries: Iterable[Mapping[str, Any]], round_: int, *, attempt: int | None = None
) -> None:
    """The durable ledger holds the round's charge, and before a vector leaves, this attempt's SENT."""
    ours = [entry for entry in entries if entry.get("round") == round_]
    assert any(entry["type"] == "reserve" for entry in ours), f"I1: round {round_} is not charged"
    if attempt is not None:
        sent = {entry["attempt"] for entry in ours if entry["type"] == "sent"}
        assert attempt in sent, f"I1: a vector of attempt {attempt} left without being marked as sent"


def i2_nothing_is_lost_in_silence(
    ending: Ending, cohort: Sequence[ClientId], acknowledged: Iterable[tuple[Digest, ClientId]]
) -> None:
    """Who was asked, and above all who was told that its vector is safe, is in the sum or listed."""
    if not ending.published:
        assert ending.reason, "I2: a round was aborted without a reason"
        return
    listed = {*ending.included, *(site for site, reason in ending.dropped if reason)}
    for h, site in acknowledged:
        assert h != ending.h or site in listed, f"I2: the vector of {site} was lost in silence"
    assert set(cohort) <= listed, "I2: a member of the cohort is nowhere listed"


def i3_the_sum_is_of_those_listed(
    ending: Ending, manifest: Manifest, words: Mapping[tuple[int, ClientId], NDArray[np.uint32]]
) -> None:
    """The signed sum is that of the listed members' vectors, each once."""
    assert set(ending.included) <= set(manifest.cohort), "I3: a stranger is in the sum"
    total = np.zeros(manifest.length, np.uint32)
    for site in ending.included:
        ring.add_into(total, words[ending.round, site])
    ring.reduce(total, manifest.word_bits)
    expected = digest(Label.SUM, ending.h, ring.pack(total, manifest.word_bits))
    assert ending.sum == expected, "I3: the sum is not that of the listed members' vectors"


def i3_the_folder_says_the_same(ending: Ending, facts: Mapping[str, Any]) -> None:
    """What people read has the book's members, count and result."""
    assert facts["count"] == len(facts["included"]) == len(ending.included), "I3: the folder's count"
    assert tuple(facts["included"]) == ending.included, "I3: the folder's members"
    assert facts["result"] == ending.result.hex(), "I3: the folder's result"


def i3_every_slot(found: NDArray[np.float64], expected: NDArray[np.float64], slack: float) -> None:
    """The oracle: slot i holds site i's value if it is listed, else nothing, to within the rounding."""
    assert np.abs(found - expected).max() <= slack, "I3: a slot of the published sum is wrong"


def i4_one_kind_of_share(known: Iterable[Knowledge], corrupt: Keys) -> None:
    """No honest member has both secrets open, whoever gave which share in which answer."""
    for each in known:
        target = each.both_open(each.held(corrupt))
        assert target is None, f"I4: both secrets of {each.cohort[target or 0]} are open"


def i4_one_answer(first: bytes, statement: bytes, what: str) -> None:
    """A client that answers, confirms or countersigns again says the very same."""
    assert first == statement, f"I4: a client {what}"


def colluders(groups: Collection[Group], owned: Keys) -> list[Keys]:
    """Every largest set that may have been the adversary's, with those that are: A of each group."""
    found: list[Keys] = []
    others = sorted(frozenset[bytes]().union(*(keys for keys, _ in groups)) - owned)

    def fits(chosen: Keys) -> bool:
        return all(len(keys & chosen) <= max(most, len(keys & owned)) for keys, most in groups)

    def grow(chosen: Keys, begin: int) -> None:
        for place in range(begin, len(others)):
            if fits(larger := chosen | {others[place]}):
                grow(larger, place + 1)
        if not any(fits(chosen | {other}) for other in others if other not in chosen):
            found.append(chosen)

    grow(owned, 0)
    return found


def at_most_one_sum(known: Iterable[Knowledge], corrupt: Keys) -> None:
    """Of all sums of one round that can be opened, each honest vector is in one at most."""
    seen: set[ClientId] = set()
    for each in known:
        for members in each.sums(each.held(corrupt)):
            sites = {each.cohort[member] for member in members}
            assert not seen & sites, f"at most one: the vector of {sorted(seen & sites)} is in two sums"
            seen |= sites


def never_fewer_than_m(known: Iterable[Knowledge], corrupt: Keys) -> None:
    """Every sum that can be opened has m honest vectors in it."""
    for each in known:
        for members in each.sums(each.held(corrupt)):
            count, m = len(members), each.honest_floor
            assert count >= m, f"at least m: a sum of {count} honest vectors can be opened, m is {m}"


def i5_one_mask_one_plaintext(packed: Mapping[tuple[Digest, ClientId], bytes], new: bytes) -> None:
    """No masked vector is seen twice under different places: a mask serves once."""
    same = [place for place, data in packed.items() if data == new]
    assert len(same) == 1, "I5: one mask served twice"


def i5_made_once(first: NDArray[np.uint32], words: NDArray[np.uint32]) -> None:
    """A round's contribution is the same words in every attempt."""
    assert (first == words).all(), "I5: a round's contribution was made twice"


def i5_masked_once(first: bytes, packed: bytes) -> None:
    """In one attempt a client has one masked vector."""
    assert first == packed, "I5: two masked vectors in one attempt"


def i6_published_never_changes(first: object, now: object, what: str) -> None:
    """What was told, signed or written of a round's end stays as it is."""
    assert first == now, f"I6: {what} changed"


def i7_ledger_only_grows(before: bytes, now: bytes) -> None:
    """A ledger begins with all that it ever held."""
    assert now.startswith(before), "I7: the ledger's past was changed"


def i7_ledger_is_sound(verdict: Verdict) -> None:
    """Its chain and signatures hold at the end, and so for every state before, which is a part of it."""
    assert verdict.fault is None, f"I7: {verdict.fault}"


def i8_the_client_decides(willing: bool, decided: bytes | None, plan: Digest) -> None:
    """Data is touched only under a plan that this site's policy allows and that it has bound itself to."""
    assert willing, "I8: a site takes part in what its policy refuses"
    assert decided == plan, "I8: a site trains before it is bound to the plan"


def i9_no_output_below_the_floors(members: int, floor: int, what: str) -> None:
    """Neither a signed survivor set nor a published sum is smaller than the floors."""
    assert members >= floor, f"I9: {what} of {members} members is below the floor of {floor}"


def i10_clocks_never_permit(round_: int, over: Container[int], what: str) -> None:
    """What a site once ended stays ended, whatever its clock says later."""
    assert round_ not in over, f"I10: {what} in round {round_}, which was over for this site"


def i11_agreed_before_masking(manifest: Manifest, agreed: Mapping[str, object]) -> None:
    """The attempt in which a vector leaves is about the roster and plans that this site holds."""
    for name, value in agreed.items():
        assert getattr(manifest, name) == value, f"I11: an attempt is about another {name}"


def i11_one_manifest(manifest: Manifest, h: Digest, known: Mapping[Digest, Manifest]) -> None:
    """An honest aggregator has one manifest for an attempt."""
    for other, earlier in known.items():
        same = (earlier.round, earlier.attempt) == (manifest.round, manifest.attempt)
        assert not same or other == h, "I11: two manifests for one attempt"


def no_downgrade(before: Roster | None, now: Roster, genuine: Container[Digest]) -> None:
    """A site's roster is one that the owner published, and never older than one that it took before."""
    assert now.digest in genuine, "downgrade: a site goes by a roster that the owner never published"
    assert before is None or now.version >= before.version, (
        f"downgrade: version {now.version} in the place of {before.version}"
    )


def nobody_revoked(cohort: Iterable[ClientId], roster: Roster, what: str) -> None:
    """Whoever this roster does not list as an active client has no part in this."""
    active = {member.site for member in roster.active(Role.CLIENT)}
    gone = sorted(set(cohort) - active)
    assert not gone, f"revoked: {what} with {gone[0]}, no client in roster version {roster.version}"

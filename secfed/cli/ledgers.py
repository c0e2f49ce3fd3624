"""A site's ledgers: opened once for a data set, tied to its file, and never quietly made anew.

The budget is the data's, so a mark beside the data file names the one ledger that holds it: a second
ledger for the same file, from another folder or another site's configuration, is refused. The mark is
a guard against mistakes, not against the site's owner, who could also copy the file.
"""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Final

from secfed.cli.heads import Heads
from secfed.config import DataConfig, PolicyConfig
from secfed.errors import ConfigError, LedgerError, StorageError
from secfed.identity.keyfile import MemberKeys
from secfed.privacy import budget
from secfed.privacy.entries import Budget, Opening
from secfed.privacy.events import Unit
from secfed.privacy.ledger import Ledger
from secfed.store import files

__all__ = [
    "DATA_LEDGER",
    "SCRATCH_LEDGER",
    "Ledgers",
    "check_unclaimed",
    "create_ledger",
    "marker",
    "unit_of",
]

DATA_LEDGER, SCRATCH_LEDGER = "dataset.ledger", "scratch.ledger"

_RELATION: Final = "add-remove"
"""The one relation that plans name."""


def unit_of(data: DataConfig) -> tuple[Unit, int, str | None]:
    """The privacy unit of a data set, how many records of one unit count, and the person's column."""
    if data.unit == "record":
        return "record", 1, None
    return "person", data.max_records_per_unit or 1, data.unit


def marker(data: DataConfig) -> Path:
    """The file that names the data file's ledger, beside the data itself, whatever link leads there."""
    real = data.file.resolve()
    return real.with_name(f".{real.name}.secfed-ledger")


def check_unclaimed(data: DataConfig) -> None:
    """Refuse a data file that has a ledger somewhere.

    Raises:
        LedgerError: Naming that ledger.
        StorageError: The mark cannot be read.
    """
    found = _read_marker(data)
    if found is not None:
        identity, where = found
        raise LedgerError(
            f"{data.file} has a ledger already: {where or 'at an unknown place'} (identity {identity[:16]})",
            hint="A data set has one budget for good: use that ledger, with the client.toml that names it.",
        )


def create_ledger(directory: Path, keys: MemberKeys, data: DataConfig, policy: PolicyConfig) -> Path:
    """Open the data set's ledger for good, with its whole budget, and mark the data file as its own.

    Raises:
        LedgerError: There is one already, here or elsewhere, or the budget makes no sense.
        StorageError: The ledger or the mark beside the data cannot be written; neither is left.
    """
    check_unclaimed(data)
    unit, records, column = unit_of(data)
    wanted = policy.budget.delta
    delta = budget.default_delta(data.public_n) if wanted is None else _decimal(wanted)
    path = directory / DATA_LEDGER
    with Ledger.create(
        path,
        key=keys.signing,
        site=keys.site,
        unit=unit,
        records_per_unit=records,
        relation=_RELATION,
        budget=Budget(_decimal(policy.budget.epsilon), delta, data.public_n),
        unit_column=column,
    ) as ledger:
        try:
            files.create_exclusive(marker(data), f"{ledger.state.opening.ledger}\n{path}\n".encode())
        except StorageError as problem:
            files.remove(path)  # it holds no charge yet
            raise StorageError(
                f"no ledger was opened, because its mark cannot be written beside the data: {problem}",
                hint="Keep the data in a folder that this user may write to.",
            ) from problem
    return path


class Ledgers:
    """The site's ledgers, each opened on first use and held until `close`; each new head is noted.

    Args:
        directory: Where they lie.
        heads: What is known of them; a ledger that is behind that is refused.
        data: The configured data set; None at a site that has none.
    """

    def __init__(self, directory: Path, keys: MemberKeys, heads: Heads, data: DataConfig | None) -> None:
        files.make_directory(directory)
        files.refuse_shared(directory)
        self._directory, self._keys, self._heads, self._data = directory, keys, heads, data
        self._open: dict[str, Ledger] = {}
        self._used: Ledger | None = None

    @property
    def last_used(self) -> Ledger:
        """The ledger that was asked for last: that of the round in hand."""
        if self._used is None:
            raise ValueError("no ledger was used yet")
        return self._used

    def data_set(self) -> Ledger:
        """The data set's ledger; one that is missing is never made anew here.

        Raises:
            ConfigError: No data set is configured.
            LedgerError: It is missing, unsound or behind what is known, or is not this data file's, or
                was opened for another unit than the configuration names.
        """
        if self._data is None:
            raise ConfigError(
                "this job trains, and client.toml has no [data] section", hint="Join again with --data."
            )
        ledger = self._get(DATA_LEDGER)
        self._check_marker(self._data, ledger.state.opening)
        _check_unit(self._data, ledger.state.opening)
        return ledger

    def scratch(self) -> Ledger:
        """For vectors that were made elsewhere; made on first use, without a budget.

        Raises:
            LedgerError: It is unsound or behind what is known, or there was one, which is missing.
        """
        path = self._directory / SCRATCH_LEDGER
        if SCRATCH_LEDGER not in self._open and not path.exists():
            if self._heads.known(SCRATCH_LEDGER) is not None:
                raise LedgerError(
                    f"{path}: this site had a scratch ledger, and it is gone",
                    hint="Restore it from its backup: it says what was released without a bound.",
                )
            made = Ledger.create(
                path,
                key=self._keys.signing,
                site=self._keys.site,
                unit="record",
                records_per_unit=1,
                relation=_RELATION,
                budget=None,
                on_head=lambda head: self._heads.note(SCRATCH_LEDGER, head),
            )
            self._open[SCRATCH_LEDGER] = made
        return self._get(SCRATCH_LEDGER)

    def close(self) -> None:
        """Release the files."""
        for ledger in self._open.values():
            ledger.close()
        self._open.clear()

    def _get(self, name: str) -> Ledger:
        if name not in self._open:
            ledger = Ledger.open(
                self._directory / name,
                key=self._keys.signing,
                expect=self._heads.known(name),
                on_head=lambda head: self._heads.note(name, head),
            )
            self._open[name] = ledger
            self._heads.note(name, ledger.head)  # an entry may have outrun its note in a crash
        self._used = self._open[name]
        return self._used

    def _check_marker(self, data: DataConfig, opening: Opening) -> None:
        path, found = marker(data), _read_marker(data)
        own = self._directory / DATA_LEDGER
        if found is None:
            raise LedgerError(
                f"{path}: the mark that ties the data file to its ledger is missing",
                hint=f"If the data have no other ledger than {own}, write its identity there: "
                f"echo {opening.ledger} > {path}",
            )
        if found[0] != opening.ledger:
            raise LedgerError(
                f"{data.file} belongs to another ledger ({found[1] or found[0][:16]}), not to {own}",
                hint="A data set has one budget for good: use its own ledger.",
            )


def _check_unit(data: DataConfig, opening: Opening) -> None:
    """What the charges protect is what is trained on now."""
    unit, _, column = unit_of(data)
    if (unit, column) != (opening.unit, opening.unit_column):
        raise LedgerError(
            f"the ledger protects {_unit_words(opening.unit, opening.unit_column)}, and client.toml names "
            f"{_unit_words(unit, column)}",
            hint="Set `unit` in [data] back: what was charged for one unit says nothing about another.",
        )


def _unit_words(unit: Unit, column: str | None) -> str:
    return "records" if unit == "record" else f"the persons of column {column!r}"


def _read_marker(data: DataConfig) -> tuple[str, str] | None:
    """The identity and the place of the ledger that a data file is marked with."""
    path = marker(data)
    with files.storage_errors(path):
        if not path.exists():
            return None
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return (lines[0].strip() if lines else "", lines[1] if len(lines) > 1 else "")


def _decimal(value: float) -> str:
    """A configured number as the decimal text that ledgers hold."""
    return format(Decimal(repr(value)).normalize(), "f")

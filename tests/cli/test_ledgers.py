"""A data set has one ledger: opened once, marked beside the data, remembered, and never made anew."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from secfed.cli.heads import Heads, parse_head, write_head
from secfed.cli.ledgers import Ledgers, check_unclaimed, create_ledger, marker
from secfed.config import BudgetPolicy, ClientConfig, DataConfig, PolicyConfig, checked, to_toml
from secfed.errors import ConfigError, LedgerError, StorageError
from secfed.identity import keyfile
from secfed.identity.keyfile import MemberKeys
from secfed.ids import Digest, JobId, RoundId
from secfed.privacy.budget import authorize
from secfed.privacy.entries import Opening
from secfed.privacy.events import NonPrivate, PoissonGaussian
from secfed.privacy.ledger import Ledger
from secfed.store.journal import EMPTY, Head

Command = Callable[..., Any]

POLICY = PolicyConfig(budget=BudgetPolicy(epsilon=8.0))
JOB = JobId("job-1")


class Place:
    """A site's folder with a data file, keys and client.toml, and the ledgers of a running client."""

    def __init__(self, folder: Path, **data: Any) -> None:
        self.folder = folder
        self.file = folder / "rows.csv"
        self.file.write_text("text,label\n")
        self.data = self.named(**data)
        self.keys: MemberKeys = keyfile.load(folder / "hosp-a.key", None)
        self.ledger_dir, self.heads = folder / "ledger", Heads(folder / "state")
        self.ledger_dir.mkdir()
        self._open: list[Ledgers] = []
        config = checked(
            ClientConfig, folder, site="hosp-a", key="hosp-a.key", federation="0f" * 16,
            roster_key="A" * 43 + "=", roster="roster.txt", aggregator="127.0.0.1:8443",
            aggregator_certificate="aggregator.pem", state_dir="state", ledger_dir="ledger",
            policy="policy.toml", output_dir="out", data=self.data.model_dump(),
        )  # fmt: skip
        (folder / "client.toml").write_text(to_toml(config, folder))

    @property
    def ledger(self) -> Path:
        return self.ledger_dir / "dataset.ledger"

    def named(self, **data: Any) -> DataConfig:
        """The [data] section with other values."""
        section = {"file": str(self.file), "unit": "record", "public_n": 1000, **data}
        return checked(DataConfig, self.folder, **section)

    def create(self) -> Path:
        return create_ledger(self.ledger_dir, self.keys, self.data, POLICY)

    def start(self, data: DataConfig | None = None) -> Ledgers:
        """A client's ledgers, after the former client is gone."""
        self.stop()
        self._open.append(Ledgers(self.ledger_dir, self.keys, self.heads, data or self.data))
        return self._open[-1]

    def stop(self) -> None:
        while self._open:
            self._open.pop().close()


@pytest.fixture
def place(new_site: Callable[..., Path]) -> Iterator[Callable[..., Place]]:
    made: list[Place] = []

    def make(**data: Any) -> Place:
        made.append(Place(new_site("hosp-a").parent, **data))
        return made[-1]

    yield make
    for each in made:
        each.stop()


def charge(ledger: Ledger, number: int) -> None:
    event = PoissonGaussian(2**64 // 100, "1.0", 50, "add-remove", "record")
    ledger.reserve(JOB, number, Digest(bytes(32)), authorize(ledger.state, event))


def opening(ledger: Ledger) -> Opening:
    return ledger.state.opening


# -- one ledger for one data file --------------------------------------------------------------


def test_a_second_ledger_for_one_data_file_is_refused(place: Callable[..., Place]) -> None:
    """Also by another name of the file; the first one is named, and nothing is left of the second."""
    site = place()
    site.create()
    elsewhere = site.folder / "other"
    elsewhere.mkdir()
    with pytest.raises(LedgerError, match="has a ledger already") as refused:
        create_ledger(elsewhere, site.keys, site.data, POLICY)
    assert str(site.ledger) in str(refused.value)
    link = site.folder / "link.csv"
    link.symlink_to(site.file)
    with pytest.raises(LedgerError, match="has a ledger already"):
        create_ledger(elsewhere, site.keys, site.named(file=str(link)), POLICY)
    assert list(elsewhere.iterdir()) == []


def test_the_mark_names_the_ledger_and_is_the_owners_alone(place: Callable[..., Place]) -> None:
    site = place()
    check_unclaimed(site.data)
    site.create()
    mark = marker(site.data)
    assert mark == site.folder / ".rows.csv.secfed-ledger"
    assert mark.stat().st_mode & 0o777 == 0o600
    assert mark.read_text().splitlines() == [opening(site.start().data_set()).ledger, str(site.ledger)]


def test_another_data_files_ledger_is_not_charged(place: Callable[..., Place]) -> None:
    """Exchanged file names, and a mark that is gone, end in a refusal with its remedy."""
    site = place()
    site.create()
    other = site.folder / "other.csv"
    other.write_text("text,label\n")
    moved = site.named(file=str(other))
    with pytest.raises(LedgerError, match="is missing") as refused:
        site.start(moved).data_set()
    identity = opening(site.start().data_set()).ledger
    assert f"echo {identity} > {marker(moved)}" in refused.value.hint
    marker(moved).write_text("00" * 32 + "\n/elsewhere/dataset.ledger\n")
    with pytest.raises(LedgerError, match=r"belongs to another ledger .*elsewhere"):
        site.start(moved).data_set()
    marker(moved).write_text(f"{identity}\n")  # as the remedy says
    assert site.start(moved).data_set().state.opening.ledger == identity


def test_a_ledger_whose_mark_cannot_be_written_is_not_left(place: Callable[..., Place]) -> None:
    site = place()
    folder = site.folder / "data"
    site.data = site.named(file=str(folder / "rows.csv"))  # a folder that does not exist takes no mark
    with pytest.raises(StorageError, match="cannot be written beside the data"):
        site.create()
    assert not site.ledger.exists()


def test_no_data_section_means_no_data_ledger(place: Callable[..., Place]) -> None:
    site = place()
    with pytest.raises(ConfigError, match=r"no \[data\] section"):
        Ledgers(site.ledger_dir, site.keys, site.heads, None).data_set()


# -- the unit is fixed -------------------------------------------------------------------------


def test_a_ledger_is_for_one_column_of_persons(place: Callable[..., Place]) -> None:
    """What was charged for patients says nothing about their doctors."""
    site = place(unit="patient", max_records_per_unit=4)
    site.create()
    assert opening(site.start().data_set()).unit_column == "patient"
    others = (site.named(unit="doctor", max_records_per_unit=4), site.named())
    for named, words in zip(others, ("column 'doctor'", "names records"), strict=True):
        with pytest.raises(LedgerError, match="column 'patient'") as refused:
            site.start(named).data_set()
        assert words in str(refused.value)


# -- heads -------------------------------------------------------------------------------------


def test_every_entry_is_remembered_at_once(place: Callable[..., Place]) -> None:
    """After RESERVE and after SENT, with no orderly end of the process in between."""
    site = place()
    site.create()
    ledger = site.start().data_set()
    assert site.heads.known("dataset.ledger") == ledger.head
    charge(ledger, 1)
    assert site.heads.known("dataset.ledger") == ledger.head == Head(2, ledger.head.digest)
    ledger.mark_sent(RoundId(JOB, 1), 1, Digest(bytes(32)))
    assert site.heads.known("dataset.ledger") == ledger.head
    assert ledger.head.count == 3


def test_a_ledger_that_came_back_from_a_backup_is_noticed(place: Callable[..., Place]) -> None:
    """The state directory remembers the head: the file before the last charge is refused."""
    site = place()
    backup = shutil.copy(site.create(), site.folder / "backup")
    charge(site.start().data_set(), 1)
    assert site.start().data_set().head.count == 2
    site.stop()
    shutil.copy(backup, site.ledger)
    with pytest.raises(LedgerError, match="cut off"):
        site.start().data_set()


def test_a_report_notices_a_tail_that_was_cut_off(place: Callable[..., Place], secfed: Command) -> None:
    """Also while a client holds the ledger; so does `ledger verify --config`; a lost ledger is named."""
    site = place()
    backup = shutil.copy(site.create(), site.folder / "backup")
    charge(site.start().data_set(), 1)
    words = ("report", "--config", site.folder / "client.toml")
    verify = ("ledger", "verify", site.ledger, "--config", site.folder / "client.toml")
    whole = secfed(*words)
    assert (whole.code, "not compared" in whole.out) == (0, False)
    assert "note" not in secfed(*verify).out
    shutil.copy(backup, site.ledger)
    assert [secfed(*command).code for command in (words, verify)] == [61, 61]
    site.ledger.unlink()
    gone = secfed(*words)
    assert (gone.code, str(site.ledger) in gone.error) == (60, True)


def test_a_lost_ledger_is_not_made_anew(place: Callable[..., Place]) -> None:
    """Neither the one with a budget, nor a scratch ledger that says what was released without a bound."""
    site = place()
    site.create()
    ledgers = site.start()
    scratch = ledgers.scratch()
    assert opening(scratch).budget is None
    assert ledgers.last_used is scratch
    leave = authorize(scratch.state, NonPrivate("a test"), allow_non_private=True)
    scratch.reserve(JOB, 1, Digest(bytes(32)), leave)
    ledgers = site.start()
    (site.ledger_dir / "scratch.ledger").unlink()
    site.ledger.unlink()
    with pytest.raises(LedgerError, match="it is gone"):
        ledgers.scratch()
    with pytest.raises(LedgerError, match="no ledger"):
        ledgers.data_set()


# -- another key -------------------------------------------------------------------------------


def test_rotated_keys_take_the_ledgers_over(place: Callable[..., Place], secfed: Command) -> None:
    """What was charged stays, counts, and verifies under the new key; the old one opens nothing any more."""
    site = place()
    site.create()
    ledgers = site.start()
    charge(ledgers.data_set(), 1)
    ledgers.scratch()
    config = site.folder / "client.toml"
    rotated = secfed("keys", "rotate", site.folder / "hosp-a.key", "--no-passphrase")
    (fresh,) = site.folder.glob("hosp-a-*.key")
    command = ("ledger", "hand-over", "--config", config, "--to", fresh)
    assert f"secfed ledger hand-over --to {fresh}" in rotated.fact("ledgers")
    assert secfed(*command).code == 63  # the client still runs
    site.stop()
    assert secfed(*command).out.count("is handed over") == 2
    assert secfed(*command).out.count("was handed over before") == 2
    with pytest.raises(LedgerError, match="not signed by the expected key"):
        site.start().data_set()
    config.write_text(config.read_text().replace("hosp-a.key", fresh.name))
    site.keys = keyfile.load(fresh, None)
    ledger = site.start().data_set()
    assert [each.reserved.round for each in ledger.state.charges] == [1]
    charge(ledger, 2)
    assert site.start().data_set().head.count == 4
    verified = secfed("ledger", "verify", site.ledger, "--config", config)
    assert (verified.code, verified.fact("verdict")) == (0, "good: 4 entries, every signature by hosp-a")
    assert secfed("report", "--config", config).code == 0


def test_a_head_is_read_back_or_refused(tmp_path: Path) -> None:
    heads, head = Heads(tmp_path / "state"), Head(7, Digest(b"\x07" * 32))
    assert (heads.known("x.ledger"), heads.names()) == (None, set())
    heads.note("x.ledger", EMPTY)
    heads.note("x.ledger", head)
    assert (heads.known("x.ledger"), heads.names()) == (head, {"x.ledger"})
    assert parse_head(write_head(head)) == head
    (tmp_path / "state" / "ledger-heads" / "x.ledger").write_text("7:zz")
    with pytest.raises(StorageError, match="ENTRIES:DIGEST"):
        heads.known("x.ledger")

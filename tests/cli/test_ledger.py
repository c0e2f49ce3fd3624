"""`secfed report` and `secfed ledger verify` on real ledgers, under a site's own configuration."""

from __future__ import annotations

import base64
import json
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from secfed.config import ClientConfig, checked, to_toml
from secfed.identity import keyfile
from secfed.ids import ClientId, Digest, JobId, RoundId
from secfed.privacy.budget import authorize
from secfed.privacy.entries import Budget
from secfed.privacy.events import Event, NonPrivate, PoissonGaussian
from secfed.privacy.ledger import Ledger
from secfed.privacy.proving import signed

Command = Callable[..., Any]

PLAN, CONTRIBUTION = Digest(b"\x01" * 32), Digest(b"\x02" * 32)
JOB = JobId("reviews")
NOISY = PoissonGaussian(round(0.01 * 2**64), "1", 50, "add-remove", "record")
PLAIN = NonPrivate("a vector that was made elsewhere")


@dataclass(frozen=True)
class SiteFolder:
    """A site as `keys new` and `client join` leave it."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "client.toml"

    @property
    def public(self) -> Path:
        (found,) = self.folder.glob("*.pub")
        return found

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger" / "dataset.ledger"

    def charge(self, events: Sequence[Event], *, budget: Budget | None, name: str = "dataset.ledger") -> None:
        """Open a ledger with a budget, and charge one event a round, all but the last sent."""
        (folder := self.folder / "ledger").mkdir(exist_ok=True)
        keys = keyfile.load(self.public.with_suffix(".key"), None)
        with Ledger.create(
            folder / name, key=keys.signing, site=keys.site, unit="record", records_per_unit=1,
            relation="add-remove", budget=budget, now=lambda: datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        ) as ledger:  # fmt: skip
            for number, event in enumerate(events, start=1):
                leave = authorize(ledger.state, event, allow_non_private=True)
                ledger.reserve(JOB, number, PLAN, leave)
                if number < len(events):
                    ledger.mark_sent(RoundId(JOB, number), 1, CONTRIBUTION)


@pytest.fixture
def site(tmp_path: Path, new_site: Callable[..., Path]) -> Callable[[str], SiteFolder]:
    """Makes a site's folder with keys and client.toml."""

    def make(name: str) -> SiteFolder:
        folder = new_site(name).parent
        config = checked(
            ClientConfig, folder, site=name, key=f"{name}.key", federation="0f" * 16,
            roster_key="A" * 43 + "=", roster="roster.txt", aggregator="127.0.0.1:8443",
            aggregator_certificate="aggregator.pem", state_dir="state", ledger_dir="ledger",
            policy="policy.toml", output_dir="out",
        )  # fmt: skip
        (folder / "client.toml").write_text(to_toml(config, folder))
        return SiteFolder(folder)

    return make


@pytest.fixture
def hosp(site: Callable[[str], SiteFolder]) -> SiteFolder:
    """A site that spent three rounds of a budget of 3 at 1e-5."""
    made = site("hosp-a")
    made.charge([NOISY] * 3, budget=Budget("3", "0.00001", 10_000))
    return made


def flip(path: Path, line: int) -> None:
    """Change one bit in the middle of a line, from 0."""
    lines = path.read_bytes().split(b"\n")
    changed = bytearray(lines[line])
    changed[len(changed) // 2] ^= 1
    lines[line] = bytes(changed)
    path.write_bytes(b"\n".join(lines))


def test_text_and_json_hold_the_same_numbers(hosp: SiteFolder, secfed: Command) -> None:
    text = secfed("report", "--config", hosp.config)
    as_json = secfed("report", "--config", hosp.config, "--format", "json")
    assert (text.code, as_json.code, text.err, as_json.err) == (0, 0, "", "")
    document = json.loads(as_json.out)
    (site,) = document["sites"]
    assert (document["schema"], site["site"], site["cap"], site["delta"]) == (1, "hosp-a", 3.0, 1e-5)
    assert 0 < site["epsilon"] == document["epsilon"] <= site["filter_spent"] <= 3
    assert site["remaining"] == pytest.approx(3 - site["filter_spent"], abs=1e-9)
    for figure in (site["epsilon"], site["filter_spent"], site["remaining"], site["figure"]["epsilon_rdp"]):
        assert f"{figure:.3f}" in text.out
    table = [line.split() for line in text.out.splitlines() if line.split()[-1:] in (["sent"], ["reserved"])]
    figures = ("epsilon_round", "epsilon_so_far", "filter_so_far", "remaining")
    assert table == [
        [JOB, str(line["round"]), f"{line['q']:g}", f"{line['sigma']:g}", str(line["steps"])]
        + [f"{line[figure]:.3f}" for figure in figures]
        + [line["state"]]
        for line in site["rounds"]
    ]
    assert [line["state"] for line in site["rounds"]] == ["sent", "sent", "reserved"]


def test_the_report_names_the_command_that_makes_it_again(
    tmp_path: Path, site: Command, secfed: Command
) -> None:
    made = site("hosp-a")
    made.charge([NOISY], budget=Budget("3", "0.00001", 10_000))
    moved = tmp_path / "a site's folder"
    made.folder.rename(moved)
    first = json.loads(secfed("report", "--config", moved / "client.toml", "--format", "json").out)
    program, *words = shlex.split(first["recompute"])
    assert program == "secfed"
    again = json.loads(secfed(*words, "--format", "json").out)
    assert again["sites"] == first["sites"]


def test_several_sites_stand_side_by_side_and_the_largest_counts(site: Command, secfed: Command) -> None:
    one, two = site("hosp-a"), site("hosp-b")
    one.charge([NOISY], budget=Budget("3", "0.00001", 10_000))
    two.charge([NOISY] * 4, budget=Budget("3", "0.00001", 10_000))
    words = ("report", "--config", one.config, "--config", two.config)
    document = json.loads(secfed(*words, "--format", "json").out)
    assert [each["site"] for each in document["sites"]] == ["hosp-a", "hosp-b"]
    assert document["epsilon"] == max(each["epsilon"] for each in document["sites"])
    assert "largest of 2 sites" in " ".join(secfed(*words).out.split())
    twice = secfed("report", "--config", one.config, "--config", one.config)
    assert (twice.code, twice.out) == (61, "")


def test_a_release_that_was_not_private_is_said_in_both_formats(site: Command, secfed: Command) -> None:
    made = site("hosp-a")
    made.charge([PLAIN, PLAIN], budget=None, name="scratch.ledger")
    document = json.loads(secfed("report", "--config", made.config, "--format", "json").out)
    assert (document["private"], document["epsilon"], document["sites"][0]["cap"]) == (False, None, None)
    assert "not private" in secfed("report", "--config", made.config).out


def test_the_report_goes_to_a_file(hosp: SiteFolder, tmp_path: Path, secfed: Command) -> None:
    shown = secfed("report", "--config", hosp.config).out
    done = secfed("report", "--config", hosp.config, "-o", tmp_path / "account.txt")
    assert (done.code, done.fact("report")) == (0, str(tmp_path / "account.txt"))
    written = (tmp_path / "account.txt").read_text()
    assert [line for line in written.splitlines() if "Made" not in line] == [
        line for line in shown.splitlines() if "Made" not in line
    ]
    refused = secfed("report", "--config", hosp.config, "-o", tmp_path / "no" / "account.txt")
    assert (refused.code, refused.error) == (
        60,
        f"{tmp_path / 'no' / 'account.txt'}: No such file or directory",
    )


def test_a_report_needs_no_passphrase_and_no_private_key(hosp: SiteFolder, secfed: Command) -> None:
    hosp.public.with_suffix(".key").unlink()
    assert secfed("report", "--config", hosp.config).code == 0


def test_a_report_without_a_ledger_says_how_one_is_made(site: Command, secfed: Command) -> None:
    made = site("hosp-a")
    done = secfed("report", "--config", made.config)
    assert (done.code, done.out, done.error) == (61, "", "there is no ledger yet")
    assert "client join" in done.remedy


def test_a_changed_byte_is_named_and_what_is_sound_is_reported(hosp: SiteFolder, secfed: Command) -> None:
    flip(hosp.ledger, 3)
    done = secfed("report", "--config", hosp.config, "--format", "json")
    assert done.code == 61
    assert done.error.startswith(f"{hosp.ledger}: ")
    assert re.search(r"\bentry 3\b", done.error)
    chain = json.loads(done.out)["sites"][0]["chain"]
    assert (chain["sound"], chain["entries"]) == (False, 3)


@pytest.mark.parametrize("line", range(6))
def test_verify_names_the_entry_that_was_changed(hosp: SiteFolder, secfed: Command, line: int) -> None:
    assert len(hosp.ledger.read_bytes().splitlines()) == 6
    flip(hosp.ledger, line)
    done = secfed("ledger", "verify", hosp.ledger, "--config", hosp.config)
    assert (done.code, done.out) == (61, "")
    assert re.search(rf"\bentry {line}\b", done.error)


def test_verify_accepts_what_is_whole(hosp: SiteFolder, secfed: Command) -> None:
    by_config = secfed("ledger", "verify", hosp.ledger, "--config", hosp.config)
    by_public = secfed("ledger", "verify", hosp.ledger, "--public", hosp.public)
    assert (by_config.code, by_config.out) == (0, by_public.out)
    assert by_config.fact("verdict") == "good: 6 entries, every signature by hosp-a"
    assert "--head" in by_config.fact("note")
    head = by_config.fact("head")
    told = json.loads(secfed("ledger", "verify", hosp.ledger, "--public", hosp.public, "--json").out)
    assert (told["kind"], told["schema"], told["site"]) == ("ledger-verdict", 1, "hosp-a")
    assert (told["entries"], told["head"], told["torn_bytes"]) == (6, head, 0)
    with_head = secfed("ledger", "verify", hosp.ledger, "--public", hosp.public, "--head", head)
    assert (with_head.code, "note" in with_head.out) == (0, False)


def test_verify_sees_a_cut_tail_by_a_known_head(hosp: SiteFolder, secfed: Command) -> None:
    words = ("ledger", "verify", hosp.ledger, "--public", hosp.public)
    head = secfed(*words).fact("head")
    lines = hosp.ledger.read_bytes().splitlines(keepends=True)
    hosp.ledger.write_bytes(b"".join(lines[:-1]))
    assert secfed(*words).code == 0
    assert secfed(*words, "--head", head).code == 61
    hosp.ledger.write_bytes(b"".join(lines[:-1]) + lines[-1][:20])
    assert "crash cut a last line of 20 bytes" in secfed(*words).out


def test_verify_refuses_another_sites_ledger(hosp: SiteFolder, site: Command, secfed: Command) -> None:
    done = secfed("ledger", "verify", hosp.ledger, "--public", site("hosp-b").public)
    assert (done.code, done.error) == (61, f"{hosp.ledger}: entry 0 is not signed by the expected key")


def test_verify_says_which_fault_it_found(hosp: SiteFolder, site: Command, secfed: Command) -> None:
    """A flipped byte, a cut tail, swapped entries and a foreign signature: each by its own name."""
    whole = hosp.ledger.read_bytes()
    lines = whole.splitlines(keepends=True)
    words = ("ledger", "verify", hosp.ledger, "--public", hosp.public)
    head = secfed(*words).fact("head")
    stranger = keyfile.load(site("hosp-b").public.with_suffix(".key"), None).signing
    unsigned = lines[5].rpartition(b',"sig":"')[0] + b"}"
    mark = base64.b64encode(stranger.sign(signed(unsigned)))
    foreign = unsigned[:-1] + b',"sig":"' + mark + b'"}\n'
    flipped = lines[2].replace(b'"sum":0', b'"sum":1')
    assert flipped != lines[2]
    faults = {
        "entry 2 was changed after it was written": [*lines[:2], flipped, *lines[3:]],
        "entry 5 is missing: the tail was cut off": lines[:5],
        "entry 3 stands out of order: entries were swapped, inserted or removed": [
            *lines[:3], lines[4], lines[3], lines[5],
        ],
        "entry 5 is not signed by the expected key, or was changed": [*lines[:5], foreign],
    }  # fmt: skip
    for fault, found in faults.items():
        hosp.ledger.write_bytes(b"".join(found))
        done = secfed(*words, "--head", head)
        assert (done.code, done.out, done.error) == (61, "", f"{hosp.ledger}: {fault}")
    hosp.ledger.write_bytes(whole)
    assert secfed(*words, "--head", head).code == 0


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        ((), 2, "--public SITE.pub and --config"),
        (("--public", "{public}", "--config", "{config}"), 2, "--public SITE.pub and --config"),
        (("--public", "{public}", "--head", "3"), 2, "--head is ENTRIES:DIGEST, not '3'"),
        (("--public", "{public}", "--head", "x:00"), 2, "--head is ENTRIES:DIGEST"),
        (("--public", "{public}", "--head", "-1:00"), 2, "--head is ENTRIES:DIGEST"),
        (("--public", "{public}", "--head", "3:00"), 2, "--head is ENTRIES:DIGEST"),
        (("--public", "{public}x"), 30, "No such file"),
        (("--config", "{config}x"), 2, "No such file"),
    ],
)
def test_wrong_options_of_verify(
    hosp: SiteFolder, secfed: Command, words: tuple[str, ...], code: int, expected: str
) -> None:
    filled = [word.format(public=hosp.public, config=hosp.config) for word in words]
    done = secfed("ledger", "verify", hosp.ledger, *filled)
    assert (done.code, expected in done.error) == (code, True)


def test_a_ledger_that_is_not_there_is_named(hosp: SiteFolder, secfed: Command) -> None:
    done = secfed("ledger", "verify", f"{hosp.ledger}x", "--public", hosp.public)
    assert done.code == 60
    assert done.error.endswith("ledgerx: No such file or directory")


def test_an_unknown_format_or_key_is_refused(hosp: SiteFolder, secfed: Command) -> None:
    assert secfed("report", "--config", hosp.config, "--format", "pdf").code == 2
    hosp.config.write_text(hosp.config.read_text().replace("log_level", "logg_level"))
    done = secfed("report", "--config", hosp.config)
    assert done.code == 2
    assert re.search(r"client\.toml:\d+ unknown key 'logg_level'; did you mean 'log_level'\?", done.error)


def test_the_site_is_the_ledgers(hosp: SiteFolder) -> None:
    """What these tests build is what a site has: the ledger's opening names its key file's site."""
    assert json.loads(hosp.ledger.read_text().splitlines()[0])["body"]["site"] == ClientId("hosp-a")

"""A kept figure answers exactly its own question, and whatever is in doubt is worked out again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from secfed.errors import LedgerError
from secfed.privacy import accountant
from secfed.privacy.accountant import Figure, epsilon
from secfed.privacy.cache import FigureCache, _written
from secfed.privacy.calibrate import noise_multiplier
from secfed.privacy.events import PoissonGaussian

EVENT = PoissonGaussian(2**62, "2", 5, "add-remove", "record")
DELTA = 1e-5


@pytest.fixture
def cache(disk: Path) -> FigureCache:
    return FigureCache(disk / "cache" / "figures")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """One item for each PLD that is really worked out."""
    worked_out: list[object] = []
    real = accountant._pld_epsilon

    def work_out(composition: accountant.Composition, delta: float) -> float:
        worked_out.append(composition)
        return real(composition, delta)

    monkeypatch.setattr(accountant, "_pld_epsilon", work_out)
    return worked_out


def entry(disk: Path) -> Path:
    (path,) = (disk / "cache" / "figures").iterdir()
    return path


def ask(cache: FigureCache, event: PoissonGaussian = EVENT, delta: float = DELTA) -> Figure:
    return epsilon([event], delta, cache=cache)


def test_a_figure_is_found_again(cache: FigureCache, counted: list[object], disk: Path) -> None:
    assert ask(cache) == ask(cache) == epsilon([EVENT], DELTA)
    assert len(counted) == 2  # once for the cache, once without one
    assert entry(disk).stat().st_mode & 0o777 == 0o600
    assert list(entry(disk).parent.glob(".*")) == []  # nothing half written is left


def test_another_question_finds_nothing(
    cache: FigureCache, counted: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other steps, another delta, another version of the library or of this code."""
    ask(cache)
    for others in (
        {"event": PoissonGaussian(2**62, "2", 6, "add-remove", "record")},
        {"event": PoissonGaussian(2**62, "2", 5, "replace-one", "record")},
        {"delta": 2e-5},
    ):
        ask(cache, **others)  # type: ignore[arg-type]
    assert len(counted) == 4
    monkeypatch.setattr(accountant, "_library_version", lambda: "dp-accounting 99")
    ask(cache)
    monkeypatch.setattr(accountant, "__version__", "99")
    ask(cache)
    assert len(counted) == 6


def test_the_order_and_the_split_of_equal_releases_are_no_other_question(
    cache: FigureCache, counted: list[object]
) -> None:
    other = PoissonGaussian(2**61, "2", 5, "add-remove", "record")
    first = epsilon([EVENT, other, EVENT], DELTA, cache=cache)
    twice = PoissonGaussian(2**62, "2", 10, "add-remove", "record")
    assert epsilon([other, twice], DELTA, cache=cache) == first
    assert len(counted) == 1


def damaged(text: str) -> dict[str, str]:
    planted = json.loads(text)
    other = planted | {"question": planted["question"] | {"delta": "0.1"}}
    return {
        "cut": text[:-1],
        "empty": "",
        "no JSON": "{",
        "a list": "[]",
        "a smaller figure": json.dumps(planted | {"epsilon": "0.001"}),
        "no figure": json.dumps({"question": planted["question"]}),
        "a number": json.dumps(planted | {"epsilon": 1}),
        "another's question": json.dumps(other),
        "more": text + " {}",
        "too long": text + " " * (1 << 20),
    }


@pytest.mark.parametrize("how", list(damaged('{"question": {}, "epsilon": "1", "sha256": ""}')))
def test_a_damaged_entry_is_ignored_and_mended(
    cache: FigureCache, counted: list[object], disk: Path, how: str
) -> None:
    true = ask(cache)
    path = entry(disk)
    sound = path.read_text()
    path.write_text(damaged(sound)[how])
    assert ask(cache) == true
    assert len(counted) == 2
    assert path.read_text() == sound


@pytest.mark.parametrize("figure", ["-1", "nan", "inf", "1000", "twelve"])
def test_a_figure_that_the_cross_check_contradicts_is_ignored(
    cache: FigureCache, counted: list[object], disk: Path, figure: str
) -> None:
    """Even under a right check sum: the Rényi bound is worked out each time, and holds from above."""
    true = ask(cache)
    question = json.loads(entry(disk).read_text())["question"]
    entry(disk).write_bytes(_written(question, figure))
    assert ask(cache) == true
    assert len(counted) == 2


def test_a_file_that_others_may_write_or_a_link_is_ignored(
    cache: FigureCache, counted: list[object], disk: Path
) -> None:
    true = ask(cache)
    entry(disk).chmod(0o666)
    assert ask(cache) == true
    path = entry(disk)
    path.rename(disk / "elsewhere")
    path.symlink_to(disk / "elsewhere")
    assert ask(cache) == true
    assert len(counted) == 3


def test_a_directory_that_cannot_be_written_costs_time_alone(disk: Path, counted: list[object]) -> None:
    (disk / "file").write_text("")
    cache = FigureCache(disk / "file" / "figures")
    assert ask(cache) == ask(cache)
    assert len(counted) == 2


def test_what_is_refused_is_not_kept(cache: FigureCache, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accountant, "_pld_epsilon", lambda *_: float("nan"))
    with pytest.raises(LedgerError, match="no epsilon"):
        ask(cache)
    assert not (disk / "cache").exists()


def test_a_calibration_is_found_again(cache: FigureCache, counted: list[object]) -> None:
    first = noise_multiplier(0.5, EVENT, DELTA, cache=cache)
    tried = len(counted)
    assert noise_multiplier(0.5, EVENT, DELTA, cache=cache) == first
    assert len(counted) == tried > 1

"""kill -9 of either side at every point of a round, several times over: the table of what came of it.

`python -m pytest tests/e2e/test_kill_matrix.py -m slow -n 0` prints it; given again it goes on where
`--minutes` ended it. Every run of the tests has some of the points (test_crashes.py); that a restart is
quick is printed here and measured by tests/bench/bench_restart.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from arena import ABORTED, FINISHED, HEADER, LARGE, REPEATED, Arena, Point, Row
from loopback import Loopback

REPEATS = 5
"""How often each point is played."""

THREE = ("hosp-a", "hosp-b", "hosp-c")
FIVE = (*THREE, "hosp-d", "hosp-e")
"""Three sites carry no loss; of five, one may be lost at any point."""

NEVER_OPENED, GONE, KEPT = frozenset({FINISHED}), frozenset({REPEATED}), frozenset({FINISHED})
OVER = frozenset({ABORTED})

AGGREGATOR = (
    Point("plan: durable, nobody told", "after:decide plan/", NEVER_OPENED),
    Point("ready: before a cohort is frozen", "before:decide attempt/", NEVER_OPENED),
    Point("advertise: first keys came", "answer:advertise", GONE),
    Point("encapsulate: first list came", "answer:encapsulate", GONE),
    Point("share: first bundle came", "answer:share", GONE),
    Point("mid-upload", "upload:half", GONE, size=LARGE),
    Point("an upload synced, not acknowledged", "after:commit", GONE),
    Point("an upload acknowledged", "upload:acked", GONE),
    Point("survivor list about to be durable", "before:decide frozen/", GONE),
    Point("confirm: asked, first signature came", "answer:confirm", KEPT),
    Point("unmask: asked, first shares came", "answer:unmask", KEPT),
    Point("summed, not published", "before:decide ending/", KEPT),
    Point("outcome durable, folder not written", "after:decide ending/", KEPT),
    Point("published, round not closed", "before:decide folder/", KEPT),
)

CLIENT = (
    Point("plan: offered", "hear:Offer", NEVER_OPENED),
    Point("ready: contribution made", "say:Ready", NEVER_OPENED),
    Point("advertise: asked", "hear:OpenAttempt", GONE, carried=False),
    Point("encapsulate: asked", "hear:Adverts", GONE, carried=False),
    Point("share: asked", "hear:Ciphertexts", GONE, carried=False),
    Point("upload: marked as sent, none left", "upload:begin", GONE, carried=False),
    Point("mid-upload", "upload:half", GONE, carried=False, size=LARGE),
    # What decides is whether all others' vectors are in by the time it is back.
    Point("all sent, no acknowledgement heard", "upload:sent", GONE | OVER, carried=None),
    Point("its upload acknowledged", "upload:acked", OVER),
    Point("confirm: asked", "hear:ConfirmRequest", OVER),
    Point("unmask: asked", "hear:UnmaskRequest", OVER),
    Point("its shares sent, no outcome heard", "answered:UnmaskRequest", KEPT),
    Point("outcome told, round not closed", "hear:OutcomeNotice", KEPT),
)


INVARIANTS = """\
Invariants: the sum is, bit for bit, that of the stored contributions of the sites that it lists, each once,
and never of fewer than the floor; one charge a round, in a ledger whose chain and signatures are whole; no
mask serves twice; what was published never changes; of an aborted round nothing leaves again."""


class Matrix:
    """One side's rows, each point in turn, so that what one leaves behind meets all others.

    They outlive the run in pytest's cache: with `--minutes` a table is played in pieces, and one that is
    full is begun anew.
    """

    def __init__(self, title: str, points: tuple[Point, ...], request: pytest.FixtureRequest) -> None:
        assert request.config.cache is not None
        self.title, self._cache = title, request.config.cache
        self._ends = time.monotonic() + 60 * request.config.getoption("--minutes")
        self._key = f"secfed/kills-{title.replace(' ', '-')}"
        seen = self._cache.get(self._key, {})
        self.rows = [Row(point, *seen.get(point.name, ([], []))) for point in points]
        if self.played == self.all:
            self.rows = [Row(point) for point in points]

    @property
    def all(self) -> int:
        return REPEATS * len(self.rows)

    @property
    def played(self) -> int:
        return sum(len(row.outcomes) for row in self.rows)

    def play(self, kill: Callable[[Row], None]) -> None:
        """Kill at one point after the other, until the table is full or the minutes are over."""
        while self.played < self.all and time.monotonic() < self._ends:
            row = min(self.rows, key=lambda each: len(each.outcomes))
            try:
                kill(row)
                assert row.outcomes[-1] in row.point.outcomes, f"came to: {row.outcomes[-1]}"
            except Exception as found:
                row.broken = str(found).partition("\n")[0] or type(found).__name__
                raise
            self._cache.set(self._key, {row.point.name: (row.outcomes, row.ready_s) for row in self.rows})

    @contextmanager
    def shown(self, capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
        """The table is printed at the end, whatever came."""
        try:
            yield
        finally:
            self._show(capsys)

    def _show(self, capsys: pytest.CaptureFixture[str]) -> None:
        with capsys.disabled():
            print(f"\n{self.title}: {self.played} of {self.all} kills\n{HEADER}")
            for row in self.rows:
                print(row.line())
            print(INVARIANTS)


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("sites", [THREE, FIVE], ids=["three", "five"])
def test_the_aggregator_is_killed_at_each_point(
    sites: tuple[str, ...],
    build: Callable[..., Loopback],
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Void and repeated before the freeze, the same attempt from then on."""
    matrix = Matrix(f"aggregator of {len(sites)} sites", AGGREGATOR, request)
    with matrix.shown(capsys):
        matrix.play(Arena(build(*sites), sites).kill_the_aggregator)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_a_client_is_killed_at_each_point_where_none_may_be_lost(
    build: Callable[..., Loopback], request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    """Void and repeated before the freeze, over for good after it unless its shares are out."""
    matrix = Matrix("one client of 3", CLIENT, request)
    with matrix.shown(capsys):
        matrix.play(Arena(build(*THREE), THREE).kill_a_client)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_a_client_is_killed_at_each_point_where_one_may_be_lost(
    build: Callable[..., Loopback], request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others' sum, with its vector if that was safe."""
    points = tuple(replace(point, outcomes=frozenset({FINISHED})) for point in CLIENT)
    matrix = Matrix("one client of 5", points, request)
    with matrix.shown(capsys):
        matrix.play(Arena(build(*FIVE), FIVE).kill_a_client)

"""kill -9 of either side at every point of a round, several times over: the table of what came of it.

`python -m pytest tests/e2e/test_kill_matrix.py -m slow -n 0` prints it. Every run of the tests has some
of the points (test_crashes.py); that a restart is quick is printed here and measured by
tests/bench/bench_restart.py.
"""

from __future__ import annotations

from collections.abc import Callable

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
Invariants: the sum is, bit for bit, that of the stored contributions of the sites that it lists, each once;
one charge a round; no mask serves twice; what was published never changes; of an aborted round nothing
leaves again."""


def play_all(points: tuple[Point, ...], kill: Callable[[Row], None]) -> list[Row]:
    """Every point, then every point again, so that what one leaves behind meets all others."""
    rows = [Row(point) for point in points]
    for _ in range(REPEATS):
        for row in rows:
            kill(row)
            assert set(row.outcomes) <= row.point.outcomes, row.line()
    return rows


def show(title: str, rows: list[Row], capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{title}\n{HEADER}")
        for row in rows:
            print(row.line())
        print(INVARIANTS)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_the_aggregator_is_killed_at_each_point(
    build: Callable[..., Loopback], capsys: pytest.CaptureFixture[str]
) -> None:
    """Void and repeated before the freeze, the same attempt from then on."""
    arena = Arena(build(*THREE), THREE)
    rows = play_all(AGGREGATOR, arena.kill_the_aggregator)
    show("aggregator of three sites", rows, capsys)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_a_client_is_killed_at_each_point_where_none_may_be_lost(
    build: Callable[..., Loopback], capsys: pytest.CaptureFixture[str]
) -> None:
    """Void and repeated before the freeze, over for good after it unless its shares are out."""
    arena = Arena(build(*THREE), THREE)
    rows = play_all(CLIENT, arena.kill_a_client)
    show("one client of three", rows, capsys)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_a_client_is_killed_at_each_point_where_one_may_be_lost(
    build: Callable[..., Loopback], capsys: pytest.CaptureFixture[str]
) -> None:
    """The others' sum, with its vector if that was safe."""
    arena = Arena(build(*FIVE), FIVE)
    points = tuple(
        Point(point.name, point.at, frozenset({FINISHED}), point.carried, point.size) for point in CLIENT
    )
    rows = play_all(points, arena.kill_a_client)
    show("one client of five", rows, capsys)

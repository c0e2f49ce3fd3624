"""The adversary's own tools: where it listens, and that its loot is no more than what it was given."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from secfed.attack.course import Course
from secfed.attack.finding import Evidence
from secfed.attack.loot import judge, judge_round, openable
from secfed.attack.venue import Venue
from secfed.secagg.messages import Phase

_LISTEN = "0A"
"""State of a listening socket in /proc/net/tcp (include/net/tcp_states.h)."""


def listening(port: int) -> list[str]:
    """Local addresses, in hexadecimal, of sockets that listen at a port."""
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            address, state = line.split()[1], line.split()[3]
            if state == _LISTEN and int(address.rsplit(":", 1)[1], 16) == port:
                found.append(address.rsplit(":", 1)[0])
    return found


def test_the_hostile_aggregator_listens_on_loopback_alone(disk: Path) -> None:
    with Venue(disk, processes=False).arena() as arena:
        (address,) = listening(arena.hostile.port)
        assert address in ("0100007F", "0000000000000000FFFF00000100007F")  # 127.0.0.1, or mapped to IPv6
        assert arena.address == f"127.0.0.1:{arena.hostile.port}"


def test_fewer_than_t_shares_open_nothing_and_t_only_the_sum_of_all(disk: Path) -> None:
    """The control of every verdict: an honest attempt yields the promised sum, and not before."""
    with Venue(disk, processes=False).arena() as arena:
        arena.start()
        job = arena.job()
        round_ = arena.round(job)
        arena.make_ready(job, round_)
        course = Course(arena, job, round_)
        for phase in (Phase.MASK, Phase.CONFIRM, Phase.UNMASK):
            course.play(phase)
            assert openable(course) == []
        survivors = course.session.survivors
        for asked in course.victims[:2]:
            course.unmask(survivors, [asked])
            assert openable(course) == []
        course.unmask(survivors, course.victims[2:3])
        (opened,) = openable(course)
        assert opened.honest == arena.honest
        assert opened.true
        assert np.array_equal(opened.words, arena.words(arena.honest))
        evidence = Evidence()
        judge_round(evidence, [judge(evidence, course), []])
        assert evidence.gains == []


def test_a_sum_that_is_not_the_true_one_is_no_gain(disk: Path) -> None:
    """Had a client masked another vector, the adversary would have opened something, but not its vector."""
    with Venue(disk, processes=False).arena() as arena:
        arena.start()
        job = arena.job()
        round_ = arena.round(job)
        arena.make_ready(job, round_)
        course = Course(arena, job, round_)
        course.play(Phase.DONE)
        course.vectors[course.victims[0]][-1] = course.vectors[course.victims[1]][-1]
        (opened,) = openable(course)
        assert not opened.true

"""The gate's memory of hellos: a number serves once, at the window's edge and whatever the clock does."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from secfed.crypto.signing import SigningKey
from secfed.errors import AuthenticationError
from secfed.identity import keyfile, membership
from secfed.identity.roles import Role
from secfed.identity.signed import Signed
from secfed.ids import ClientId
from secfed.transport.hello import HelloGate, HelloMaker

START_S = 30_000_000 * 60
"""A full minute."""

Say = Callable[[float], Signed]
Judge = Callable[[Signed, float], str]


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Say, Judge]:
    """Hellos of a site at a time, and what a gate says of them at another."""
    folder, now = tmp_path_factory.mktemp("keys"), datetime.fromtimestamp(START_S, UTC)
    center, site = (
        keyfile.create(folder / f"{name}.key", site=ClientId(name), role=role, passphrase=None, now=now)
        for name, role in (("center", Role.AGGREGATOR), ("hosp-a", Role.CLIENT))
    )
    roster = membership.create(
        SigningKey.from_seed(bytes(32)),
        [center.enrolment, site.enrolment],
        now=now,
        not_after=now + timedelta(days=9),
    )
    checks: dict[str, HelloGate] = {}

    def say(at: float) -> Signed:
        maker = HelloMaker(site, roster.federation, center.certificate, lambda: round(at * 1e6) * 1000)
        return maker.make("GetRoster", b"", roster=roster.digest)

    def judge(hello: Signed, at: float) -> str:
        kept = checks.setdefault("gate", HelloGate(center.certificate))
        if at < 0:
            checks.clear()
            return "forgotten"
        try:
            kept.check(
                "GetRoster", hello, b"", site.tls_certificate_pem, roster, datetime.fromtimestamp(at, UTC)
            )
        except AuthenticationError as refused:
            return str(refused)
        return "accepted"

    return say, judge


@pytest.fixture
def fresh(gate: tuple[Say, Judge]) -> tuple[Say, Judge]:
    say, judge = gate
    judge(say(START_S), -1)
    return gate


@pytest.mark.parametrize("second", [0.0, 0.2, 30.0, 59.8, 59.999999])
def test_a_number_is_kept_for_as_long_as_it_could_count(fresh: tuple[Say, Judge], second: float) -> None:
    """Another call lets go of old numbers just before the window has passed for this one."""
    say, judge = fresh
    first = START_S + second
    old = say(first)
    assert judge(old, first) == "accepted"
    for later in (599.0, 599.9, 600.0, 600.000001, 600.4, 600.999, 601.0):
        assert judge(say(first + later), first + later) == "accepted"
        assert judge(old, first + later) != "accepted"
    assert "clock" in judge(old, first + 600.6)


def test_the_window_is_ten_minutes_to_the_microsecond(fresh: tuple[Say, Judge]) -> None:
    say, judge = fresh
    assert judge(say(START_S), START_S + 600) == "accepted"
    assert "601 s off" in judge(say(START_S + 1), START_S + 601.000001)
    assert judge(say(START_S + 1800), START_S + 1200) == "accepted"
    assert "601 s off" in judge(say(START_S + 1900.000001), START_S + 1300)


def test_a_clock_that_is_put_back_gives_no_leave_again(fresh: tuple[Say, Judge]) -> None:
    """What was let go of at the later time stays worth nothing; the member waits until then."""
    say, judge = fresh
    old = say(START_S)
    assert judge(old, START_S) == "accepted"
    assert judge(say(START_S + 7200), START_S + 7200) == "accepted"
    assert "clock was put back" in judge(old, START_S + 1)
    assert "clock was put back" in judge(say(START_S + 2), START_S + 2)
    assert judge(say(START_S + 7201), START_S + 7201) == "accepted"
    assert judge(say(START_S + 600), START_S + 600) == "accepted"


def test_an_ordinary_clock_never_meets_that(fresh: tuple[Say, Judge]) -> None:
    """A caller ten minutes behind, beside one of the same name who is ten minutes ahead."""
    say, judge = fresh
    for second in range(0, 7200, 37):
        at = START_S + second
        assert judge(say(at + 600), at) == "accepted"
        assert judge(say(at - 600 + 0.001), at) == "accepted"

"""A member's connection over real sockets: what is tried again, what is final, and how one can tell."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save_file
from townhall import PATIENCE_S, WITHIN_S, Town

from secfed.config import BudgetPolicy, JobPolicy, PolicyConfig
from secfed.crypto.kdf import digest
from secfed.crypto.labels import Label
from secfed.errors import (
    AuthenticationError,
    CertificateExpiredError,
    ConfigError,
    NetworkError,
    NotPermittedError,
    RevokedError,
)
from secfed.identity import membership
from secfed.identity.roles import Role
from secfed.ids import ClientId, Digest, JobId
from secfed.privacy.ledger import Ledger
from secfed.rounds.admission import Site
from secfed.rounds.client import ClientRounds, RoundEnd
from secfed.rounds.contribution import ContributionStore, site_key
from secfed.rounds.conversation import take_part
from secfed.rounds.exchange import Present
from secfed.rounds.rosters import RosterKeeper
from secfed.rounds.vector import VectorContributor
from secfed.store.decisions import DecisionStore
from secfed.transport import client as client_module
from secfed.transport.client import ROSTER_LAG_S, Connection, Sequence
from secfed.wire import calls
from secfed.wire.codec import ProtoCodec


class Relay:
    """A TCP relay in front of the aggregator, which can cut the link after so many bytes towards it."""

    def __init__(self, port: int, *, at: int = 0) -> None:
        self._to, self._listener = port, socket.create_server(("127.0.0.1", at))
        self._ends: list[socket.socket] = []
        self.port = self._listener.getsockname()[1]
        self.cut_after: int | None = None
        self.cuts = 0
        self.passing = threading.Event()
        self.passing.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._to))
            self._ends += [near, far]
            threading.Thread(target=self._pump, args=(near, far, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(far, near, False), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, up: bool) -> None:
        try:
            while data := source.recv(1 << 16):
                if up and self.cut_after is not None:
                    self.cut_after -= len(data)
                    if self.cut_after < 0:
                        self.cut_after, self.cuts = None, self.cuts + 1
                        break
                self.passing.wait()
                sink.sendall(data)
        except OSError:
            pass
        for each in (source, sink):
            _shut(each)
            each.close()

    def close(self) -> None:
        """Nobody gets through any more, and who was through is cut off."""
        for each in (self._listener, *self._ends):
            _shut(each)
        self._listener.close()


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


# -- numbers -----------------------------------------------------------------------------------


def test_numbers_only_grow_whatever_the_clock_does():
    """The clock stands still, then goes back an hour: still larger numbers."""
    clock = [10**18]
    numbers = Sequence(lambda: clock[0])
    seen = [numbers(), numbers()]
    clock[0] += 10**12
    seen += [numbers(), numbers()]
    clock[0] -= 3600 * 10**9
    seen += [numbers(), numbers()]
    assert seen == sorted(set(seen))


def test_a_restart_numbers_by_the_clock_again():
    """However often a process is started, its numbers stay within the aggregator's window."""
    clock = [10**18]
    for _ in range(100):
        clock[0] += 10**6
        assert Sequence(lambda: clock[0])() == clock[0]


# -- before anything is dialled ----------------------------------------------------------------


def unreachable(town, patience_s=0.1, **options):
    """A connection to a port where a dial would be seen as a `NetworkError`."""
    town.address = "127.0.0.1:1"
    return town.connect("hosp-a", patience_s=patience_s, **options)


def test_an_expired_certificate_is_found_before_dialling(quiet_town):
    with unreachable(quiet_town) as link:
        link._now = lambda: datetime.now(UTC) + timedelta(days=4000)
        with pytest.raises(CertificateExpiredError) as caught:
            link.status()
    assert caught.value.exit_code == 24


def test_a_site_that_its_own_roster_lists_as_revoked_does_not_dial(quiet_town):
    quiet_town.roster = membership.revoke(quiet_town.roster, quiet_town.owner, ClientId("hosp-a"))
    with unreachable(quiet_town) as link, pytest.raises(RevokedError) as caught:
        link.status()
    assert caught.value.exit_code == 23


def test_a_key_file_that_is_not_the_enrolled_one_does_not_dial(quiet_town, tmp_path):
    quiet_town.root = tmp_path
    quiet_town.keys["hosp-a"] = quiet_town.make_keys("hosp-a", Role.CLIENT)
    with unreachable(quiet_town) as link, pytest.raises(AuthenticationError, match="SHA256") as caught:
        link.status()
    assert caught.value.exit_code == 21


def test_a_rotated_member_starts_with_the_roster_of_before(town, until, tmp_path):
    """Its new key stands in no roster that it has: it fetches the one that lists it, by itself."""
    before = town.roster
    town.root = tmp_path
    renewed = town.make_keys("hosp-a", Role.CLIENT)
    town.publish(membership.rotate(before, town.owner, renewed.enrolment, now=town.now))
    until(lambda: "version 2 is in force" in town.out.getvalue())
    town.roster, town.keys["hosp-a"] = before, renewed
    with town.connect("hosp-a") as link:
        link.check()
        assert link.status().roster_version == 2


# -- addresses and certificates ----------------------------------------------------------------


def test_a_wrong_port_is_named_and_tried_until_patience_ends(quiet_town):
    failures: list[NetworkError] = []
    with (
        unreachable(quiet_town, patience_s=0.6, on_retry=failures.append) as link,
        pytest.raises(NetworkError, match=r"nothing listens at 127\.0\.0\.1:1") as caught,
    ):
        link.status()
    assert caught.value.exit_code == 10
    assert len(failures) >= 2


def test_a_name_that_does_not_resolve_is_named(quiet_town):
    quiet_town.address = "no-such-host.invalid:8443"
    with (
        quiet_town.connect("hosp-a", patience_s=0.1) as link,
        pytest.raises(NetworkError, match="cannot be resolved"),
    ):
        link.status()


def test_something_else_at_the_address_is_no_aggregator(quiet_town):
    """A web server in clear: a network error, so it is tried again, and says what is wrong."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            while True:
                try:
                    with listener.accept()[0] as client:
                        client.recv(64)
                        client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                except OSError:
                    return

        threading.Thread(target=answer, daemon=True).start()
        quiet_town.address = f"127.0.0.1:{listener.getsockname()[1]}"
        with (
            quiet_town.connect("hosp-a", patience_s=0.1) as link,
            pytest.raises(NetworkError, match="does not speak TLS"),
        ):
            link.status()
        listener.shutdown(socket.SHUT_RDWR)


def test_another_certificate_than_the_rosters_is_final(town):
    """An impostor, or a rotated aggregator: one try, and no retry loop can hide it."""
    rotated = _rotated_aggregator(town)
    failures: list[NetworkError] = []
    held = town.roster
    town.roster = rotated
    with town.connect("hosp-a", on_retry=failures.append) as link:
        town.roster = held
        with pytest.raises(AuthenticationError, match="another TLS certificate") as caught:
            link.status()
    assert (caught.value.exit_code, failures) == (21, [])


def _rotated_aggregator(town):
    keys = town.keys["center"]
    town.root = town.root / "rotated"
    town.root.mkdir()
    fresh = town.make_keys("center", Role.AGGREGATOR)
    town.root = town.root.parent
    assert fresh.certificate.digest != keys.certificate.digest
    return membership.rotate(town.roster, town.owner, fresh.enrolment, now=town.now)


@pytest.mark.parametrize("revoked", [False, True], ids=["other keys", "revoked keys of before"])
def test_keys_that_no_roster_lists_are_refused_even_if_the_roster_is_in_force(town, revoked):
    """The aggregator's answer is no more than an answer: it does not make up for the papers."""
    if revoked:
        town.publish(membership.revoke(town.roster, town.owner, ClientId("hosp-a")))
    town.root = town.root / "other"
    town.root.mkdir()
    other = town.make_keys("hosp-a", Role.CLIENT)
    town.root = town.root.parent
    told = calls.encode_in_force(calls.InForce(Digest(b"\1" * 32), b""))
    with town.connect("hosp-a") as link:
        link._keys, link._once = other, lambda *_: told
        with pytest.raises(RevokedError if revoked else AuthenticationError):
            link.check()


def test_a_site_revoked_meanwhile_is_told_so_and_stops(town, until):
    """Its own roster still lists it, TLS just ends: a few tries, then REVOKED, and no endless loop.

    Not at once: a site that was enrolled this moment sees the same until the aggregator has noticed.
    """
    failures: list[NetworkError] = []
    patience_s = 600.0
    with town.connect("hosp-c", patience_s=patience_s, on_retry=failures.append) as link:
        assert link.status().roster_version == 1
        town.publish(membership.revoke(town.roster, town.owner, ClientId("hosp-c")))
        until(lambda: town.daemon.rosters.current.version == 2)
        link.close()
        time.sleep(0.3)
        begun = time.monotonic()
        with pytest.raises(RevokedError) as caught:
            link.status()
    assert caught.value.exit_code == 23
    assert ROSTER_LAG_S <= time.monotonic() - begun < patience_s / 2
    assert 1 <= len(failures) < 10


# -- refusals and rosters ----------------------------------------------------------------------


def test_a_refusal_is_never_tried_again(town):
    failures: list[NetworkError] = []
    with town.connect("hosp-a", on_retry=failures.append) as link:
        with pytest.raises(NotPermittedError) as caught:
            link.start_job(town.plan())
        with pytest.raises(ConfigError, match="no adapter"):
            link.download(Digest(bytes(32)))
    assert (caught.value.exit_code, failures) == (22, [])


def test_a_newer_roster_is_fetched_and_the_call_goes_on(town, until):
    with town.connect("hosp-a") as link:
        link.status()
        town.publish(membership.revoke(town.roster, town.owner, ClientId("hosp-c")))
        until(lambda: town.daemon.rosters.current.version == 2)
        assert link.status().roster_version == 2
        assert link._rosters.current.version == 2


@pytest.mark.parametrize("within_s", WITHIN_S)
def test_a_link_that_comes_back_is_taken_up_within_five_seconds(town, within_s):
    """Down long enough for the pauses to have grown to their longest."""
    relay = Relay(town.at.port)
    town.address = f"127.0.0.1:{relay.port}"
    answered: list[float] = []
    with town.connect("hosp-a", patience_s=120.0) as link:
        link.status()
        relay.close()

        def call() -> None:
            link.status()
            answered.append(time.monotonic())

        caller = threading.Thread(target=call)
        caller.start()
        time.sleep(4)
        assert not answered
        again, back = Relay(town.at.port, at=relay.port), time.monotonic()
        caller.join(120)
        again.close()
    assert answered
    assert answered[0] - back < within_s


def test_an_aggregator_that_greeted_is_waited_for_whatever_was_asked_first(quiet_town, until):
    """The limit is on an aggregator that never answers: not on a first call that is held for longer."""
    quiet_town.poll_s = 240.0
    quiet_town.start()
    relay, failures, arrival_s = Relay(quiet_town.at.port), [], 3.0
    quiet_town.address = f"127.0.0.1:{relay.port}"
    options = {"patience_s": 8.0, "arrival_s": arrival_s, "on_retry": failures.append}
    with quiet_town.connect("hosp-a", **options) as link:

        def call() -> None:
            with contextlib.suppress(NetworkError):  # once the aggregator is gone for good
                link.exchange(Present(""))

        caller = threading.Thread(target=call)
        caller.start()
        until(lambda: link._start is not None)
        time.sleep(arrival_s)
        relay.close()
        until(lambda: failures)
        again = Relay(quiet_town.at.port, at=relay.port)
        until(lambda: again._ends or not caller.is_alive())
        assert again._ends
        quiet_town.stop()
        again.close()
        caller.join(PATIENCE_S)
    assert not caller.is_alive()


def test_a_link_that_falls_silent_is_given_up_before_the_call_on_it(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing ends, and nothing passes: it is the probe that tells so, not the end of the call's time."""
    monkeypatch.setattr(client_module, "KEEPALIVE_S", 2)
    monkeypatch.setattr(client_module, "PROBE_S", 1)
    relay, failures, told = Relay(town.at.port), [], threading.Event()
    town.address = f"127.0.0.1:{relay.port}"

    def failed(failure: NetworkError) -> None:
        failures.append(str(failure))
        told.set()

    with town.connect("hosp-a", patience_s=300.0, on_retry=failed) as link:
        link.status()
        relay.passing.clear()
        caller = threading.Thread(target=link.status)
        caller.start()
        told.wait(PATIENCE_S)
        relay.close()
        relay.passing.set()
        again = Relay(town.at.port, at=relay.port)
        caller.join(PATIENCE_S)
        again.close()
    assert "was lost" in failures[0]
    assert not caller.is_alive()


# -- whole rounds ------------------------------------------------------------------------------


class Quiet:
    def note(self, event, *, job=None, site=None, **facts):
        pass


def client(town, name: str, home: Path, update: Path, address: str) -> tuple[ClientRounds, Connection, list]:
    """One site, wired by hand over real stores and a real connection."""
    home.mkdir(mode=0o700)
    (home / "roster.txt").write_bytes(town.roster.text)
    keys = town.keys[name]
    decisions = DecisionStore(home / "decisions.sqlite")
    ledger = Ledger.create(
        home / "scratch.ledger", key=keys.signing, site=keys.site, unit="record", records_per_unit=1,
        relation="add-remove", budget=None,
    )  # fmt: skip
    rosters = RosterKeeper(home / "roster.txt", town.owner.public, decisions)
    contributor = VectorContributor(update)
    rounds = ClientRounds(
        Site(
            name=keys.site,
            key=keys.signing,
            only=None,
            codec=ProtoCodec(),
            rosters=rosters,
            decisions=decisions,
            contributions=ContributionStore(home / "contributions", site_key(home / "site.key")),
            policy=PolicyConfig(budget=BudgetPolicy(epsilon=8.0), job=JobPolicy(allow_non_private=True)),
            policy_digest="00" * 32,
            ledger=lambda _plan: ledger,
            contributor=lambda _plan: contributor,
            base=lambda _digest: {},
            observer=Quiet(),
            now=lambda: datetime.now(UTC),
            monotonic=time.monotonic,
        )
    )
    link = Connection(
        address,
        keys,
        rosters,
        Sequence(),
        now=lambda: datetime.now(UTC),
        ledger_head=lambda: rounds.ledger_head,
        patience_s=120.0,
    )
    return rounds, link, [decisions, ledger, link]


def test_a_round_over_sockets_with_a_link_that_breaks_in_the_upload(town, disk):
    """The cut upload is begun again on a new connection, the sum is exact, and its file can be fetched."""
    shapes = {"a": (700, 1000)}
    relay = Relay(town.at.port)
    ends: dict[str, RoundEnd] = {}
    threads, closing = [], []
    for index, name in enumerate(("hosp-a", "hosp-b", "hosp-c")):
        update = disk / f"{name}.safetensors"
        save_file({"a": np.full(shapes["a"], (index + 1) / 4, np.float32)}, update)
        address = f"127.0.0.1:{relay.port}" if name == "hosp-b" else town.address
        rounds, link, opened = client(town, name, disk / name, update, address)
        closing += opened

        def take(name=name, rounds=rounds, link=link) -> None:
            for fact in take_part(rounds, link, time.sleep):
                if isinstance(fact, RoundEnd):
                    ends[name] = fact
                    return

        threads.append(threading.Thread(target=take))
    with town.connect("office") as admin:
        admin.start_job(town.plan(shapes=shapes))
    relay.cut_after = 700_000  # past handshake and phases, within the 1.6 MB of the vector
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(180)
    assert relay.cuts == 1
    assert len(ends) == 3
    assert all((end.included, end.members) == (True, 3) for end in ends.values())
    result = Digest(bytes.fromhex(town.status().jobs[0].history[0].result))
    with town.connect("hosp-a") as link:
        data = link.download(result)
    assert digest(Label.ADAPTER, data) == result
    assert any(np.allclose(array, 0.5, atol=1e-3) for array in load(data).values())
    for each in closing:
        each.close()
    relay.close()
    assert town.status(JobId("sum-1")).jobs[0].state == "done"

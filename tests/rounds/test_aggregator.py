"""The aggregator's rounds against real clients, in memory: every message goes over its exact bytes."""

from __future__ import annotations

import base64
import gc
import hashlib
import json
import shutil
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from safetensors.numpy import load_file

from secfed.aggregation import folder
from secfed.aggregation.initial import initial_adapter
from secfed.crypto import kdf, signing
from secfed.crypto.labels import Label
from secfed.crypto.signing import SigningKey
from secfed.errors import (
    AuthenticationError,
    ConfigError,
    EncodingError,
    InfeasibleCohortError,
    LedgerError,
    NotPermittedError,
    PeerError,
    RoundAbortedError,
    StorageError,
)
from secfed.identity import certificate, membership, signed
from secfed.identity.enrolment import Enrolment
from secfed.identity.roles import Role
from secfed.identity.roster import Roster
from secfed.identity.signed import Signed
from secfed.ids import NO_DIGEST, ClientId, Digest, JobId
from secfed.limits import SLOWEST_BYTES_PER_S
from secfed.privacy.events import NonPrivate
from secfed.rounds import aggregator, attempt, entry
from secfed.rounds.aggregator import AggregatorRounds
from secfed.rounds.client import Upload
from secfed.rounds.exchange import (
    Answer,
    Ask,
    Declined,
    JobCommand,
    JobState,
    Present,
    Ready,
    Refused,
    RoundState,
    Wait,
)
from secfed.rounds.house import House, adapter_digest
from secfed.rounds.jobs import Ending, JobBook
from secfed.rounds.plan import Deadlines
from secfed.rounds.ports import Update
from secfed.rounds.proposal import sign_job_plan
from secfed.secagg import params
from secfed.secagg.messages import (
    Bundles,
    ConfirmRequest,
    MaskedStatement,
    OpenAttempt,
    OutcomeNotice,
    SignedReply,
    UnmaskRequest,
    VoidNotice,
)
from secfed.store.adapters import AdapterStore
from secfed.store.decisions import DecisionStore
from secfed.store.journal import Head
from secfed.store.spool import Spool
from secfed.wire import sums
from secfed.wire.codec import ProtoCodec

NOW_NS = 1_772_366_400 * 10**9
NOW = datetime.fromtimestamp(1_772_366_400, UTC)
"""2026-03-01 12:00:00 UTC, when the clients' fixture lives too."""


@dataclass
class ManualClock:
    """Time passes when a test says so."""

    seconds: float = 0.0

    def monotonic(self) -> float:
        return self.seconds

    def now_ns(self) -> int:
        return NOW_NS + int(self.seconds * 1e9)


@dataclass
class Notes:
    """Keeps what it hears."""

    heard: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def note(self, event: str, **facts: Any) -> None:
        self.heard.append((event, facts))

    def of(self, event: str) -> list[dict[str, Any]]:
        return [facts for name, facts in self.heard if name == event]


class Hall:
    """An aggregator on its disk, and the clients of a federation that talk to it."""

    def __init__(self, federation: Any, disk: Path, **house: Any) -> None:
        self.federation, self.disk, self.options = federation, disk, house
        self.clock, self.notes = ManualClock(), Notes()
        self.roster = federation.roster
        self.away: set[ClientId] = set()
        self.states: dict[ClientId, Digest] = {}
        self.refused: list[tuple[ClientId, str]] = []
        self.decisions: DecisionStore | None = None
        self.before: dict[type, Any] = {}
        self.start()
        for machine in federation.machines.values():
            machine.start()
            machine.says = machine.rounds.standing

    # -- the aggregator's process --------------------------------------------------------------

    def start(self) -> None:
        self.decisions = DecisionStore(self.disk / "aggregator.sqlite")
        self.house = House(
            site=ClientId("center"),
            key=self.federation.aggregator,
            roster=lambda: self.roster,
            roster_key=self.federation.roster_key.public,
            codec=ProtoCodec(),
            decisions=self.decisions,
            spool=Spool(self.disk / "spool"),
            adapters=AdapterStore(self.disk / "adapters", digest=adapter_digest),
            output=self.disk / "out",
            clock=self.clock,
            observer=self.notes,
            **self.options,
        )
        self.rounds = AggregatorRounds(self.house)

    def kill(self) -> None:
        assert self.decisions is not None
        self.decisions.close()

    def restart(self) -> None:
        self.kill()
        self.start()

    # -- the clients' processes ----------------------------------------------------------------

    def machine(self, name: str) -> Any:
        return self.federation.machines[ClientId(name)]

    def lose(self, name: str) -> None:
        """kill -9 of a client: its call breaks off."""
        self.away.add(ClientId(name))
        self.machine(name).stop()
        self.rounds.leave(ClientId(name), broken=True)

    def bring_back(self, name: str) -> None:
        machine = self.machine(name)
        machine.start()
        machine.says = machine.rounds.standing
        self.away.discard(ClientId(name))

    def turn(self, name: ClientId) -> bool:
        """One call of one client, and what it makes of the answer; whether there was anything new."""
        machine = self.federation.machines[name]
        try:
            self.say(name, machine.says)
        except PeerError as refusal:
            self.refused.append((name, str(refusal)))
            machine.says = machine.rounds.standing
            return True
        told = self.rounds.next_for(name)
        if told is None:
            machine.says = machine.rounds.hear(self.rounds.wait_for(name))
            return False
        told = sums.decode_told(sums.encode_told(told))
        if isinstance(told, Ask) and type(told.request) in self.before:
            hook = self.before[type(told.request)]
            if hook(name):
                return True
        machine.says = machine.rounds.hear(told)
        return True

    def say(self, name: ClientId, said: Any) -> None:
        """What one client says reaches the aggregator.

        Raises:
            PeerError: It is refused.
        """
        machine = self.federation.machines[name]
        if isinstance(said, Upload):
            upload = self.rounds.begin_upload(name, said.attempt, said.statement)
            if upload is not None:
                upload.write(said.packed)
                upload.commit()
                self.rounds.finish_upload(upload)
            machine.says = machine.rounds.standing
        else:
            head = machine.rounds.ledger_head
            said = sums.decode_said(sums.encode_said(said))
            self.rounds.hear(name, said, ledger=head, state=self.states.get(name, NO_DIGEST))

    def run(self, *, until: str = "", rounds: int = 400, pass_time: float = 0.25, patience: int = 3) -> None:
        """Let everybody who is here talk until nothing moves, or a note of this name was made."""
        idle = 0
        for _ in range(rounds):
            if until and self.notes.of(until):
                return
            moved = False
            for name in self.federation.machines:
                if name not in self.away:
                    moved = self.turn(name) or moved
            if (work := self.rounds.work()) is not None:
                self.rounds.worked(work())
                moved = True
            self.clock.seconds += pass_time
            self.rounds.tick()
            idle = 0 if moved else idle + 1
            if not until and idle > patience:
                return
        if until:
            raise AssertionError(f"no {until} in {self.notes.heard}")

    # -- jobs ----------------------------------------------------------------------------------

    def start_job(self, **changes: Any) -> JobState:
        plan = self.federation.plan(**({"rounds": 1} | changes))
        return self.rounds.start_job(sign_job_plan(self.federation.admin, plan).text)

    @property
    def ends(self) -> list[RoundState]:
        return [facts["state"] for facts in self.notes.of("round_ended")]

    def folder(self, number: int = 1, job: str = "sum-1") -> Path:
        return self.disk / "out" / job / f"round-{number:04}"


@pytest.fixture
def hall(build_federation: Any, disk: Path) -> Iterator[Any]:
    """Builds a hall with this many sites."""
    made: list[Hall] = []

    def build(sites: int = 3, corrupt: int | None = None, **house: Any) -> Hall:
        made.append(Hall(build_federation(sites, corrupt), disk, **house))
        return made[-1]

    yield build
    for each in made:
        each.kill()


def true_sum(hall: Hall, names: list[str], array: str) -> Any:
    return sum(load_file(hall.machine(name).update)[array].astype(float) for name in names)


SITES = ["hosp-a", "hosp-b", "hosp-c", "hosp-d", "hosp-e"]


# -- a round that goes well --------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_a_round_of_129_sites_on_the_ring_of_which_one_is_lost(hall: Any) -> None:
    """From the offer to the published folder, with real messages; the lost site's masks come off.

    Where 128 must stay, one may be lost, and each masks with six others.
    """
    h = hall(129, corrupt=1)
    lost = ClientId("hosp-077")

    def lose(name: ClientId) -> bool:
        if name == lost:
            h.lose(name)
        return name == lost

    h.before[Bundles] = lose
    h.start_job(min_cohort=128)
    h.run(until="round_ended")
    (end,) = h.ends
    names = [name for name in h.federation.machines if name != lost]
    assert (end.state, end.asked, end.included) == ("published", 129, tuple(names))
    assert [site for site, _ in end.dropped] == [lost]
    facts = json.loads((h.folder() / "secfed_manifest.json").read_bytes())
    assert len(facts["survivors_signatures"]) == 128
    published = load_file(h.folder() / "sum.safetensors")
    step = 2 * 4 / (2**16 - 1)
    assert np.allclose(published["weighted_sum.a"], true_sum(h, names, "a"), atol=129 * step)


def test_a_round_publishes_the_sum_the_mean_and_who_was_in_it(hall: Any) -> None:
    """Three sites, one vector round: the folder, its signature, the outcome at every site."""
    h = hall(3)
    h.start_job()
    h.run()
    (end,) = h.ends
    assert (end.state, end.asked, end.included, end.dropped) == ("published", 3, tuple(SITES[:3]), ())
    out = h.folder()
    published = load_file(out / "sum.safetensors")
    step = 2 * 4 / (2**16 - 1)
    assert np.allclose(published["weighted_sum.a"], true_sum(h, SITES[:3], "a"), atol=3 * step)
    assert np.allclose(published["mean.b"], true_sum(h, SITES[:3], "b") / 3, atol=step)
    text = (out / "secfed_manifest.json").read_bytes()
    facts = json.loads(text)
    assert (facts["included"], facts["dropped"], facts["count"], facts["weight_sum"]) == (SITES[:3], [], 3, 3)
    result = kdf.digest(Label.ADAPTER, (out / "sum.safetensors").read_bytes()).hex()
    assert result == facts["result"] == end.result
    covered = signed.message(
        Label.SIGN_MANIFEST_FILE,
        context=bytes.fromhex(facts["attempt_digest"]),
        sender="center",
        recipient=None,
        statement=text,
    )
    signature = base64.b64decode((out / "secfed_manifest.json.sig").read_text())
    assert signing.verify(h.federation.aggregator.public, covered, signature)
    assert len(facts["survivors_signatures"]) == 3
    assert h.rounds.status().jobs[0].state == "done"
    assert h.house.spool.names() == []
    for machine in h.federation.machines.values():
        assert machine.site.contributions.rounds() == []


def test_rounds_follow_each_other_and_name_the_last_transcript(hall: Any) -> None:
    h = hall(3)
    h.start_job(rounds=3)
    h.run()
    assert [(end.round, end.state) for end in h.ends] == [
        (1, "published"),
        (2, "published"),
        (3, "published"),
    ]
    countersigned = h.decisions.scan("countersign/")
    assert len(countersigned) == 9


def test_jobs_queue_in_the_order_of_their_start(hall: Any) -> None:
    h = hall(3)
    h.start_job(job="first")
    assert h.start_job(job="second").state == "queued"
    h.run()
    assert [facts["job"] for facts in h.notes.of("round_opened")] == ["first", "second"]
    assert [end.state for end in h.ends] == ["published", "published"]


def test_masked_uploads_are_kept_only_if_asked_for(hall: Any) -> None:
    h = hall(3, retain_uploads=True)
    h.start_job()
    h.run()
    assert len(h.house.spool.names()) == 3
    h.restart()
    assert len(h.house.spool.names()) == 3


# -- losses ------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["encapsulate", "share", "mask"])
def test_a_client_lost_before_its_vector_is_listed_and_left_out(hall: Any, phase: str) -> None:
    """n = 5 carries one loss in any phase; the sum is exactly that of the other four."""
    h = hall(5)
    h.start_job(deadlines=Deadlines(phase_s=5))
    for _ in range(40):
        h.run(rounds=1)
        live = h.rounds.status().jobs[0]
        if live.phase == phase:
            h.lose("hosp-e")
            break
    h.run(until="round_ended")
    (end,) = h.ends
    assert (end.state, end.included) == ("published", tuple(SITES[:4]))
    assert end.dropped == (("hosp-e", f"{phase}: no answer in phase {phase} within 5 s"),)
    published = load_file(h.folder() / "sum.safetensors")
    step = 2 * 4 / (2**16 - 1)
    assert np.allclose(published["weighted_sum.a"], true_sum(h, SITES[:4], "a"), atol=4 * step)


@pytest.mark.parametrize("request_", [ConfirmRequest, UnmaskRequest])
def test_a_client_lost_after_its_vector_came_stays_in_the_sum(hall: Any, request_: type) -> None:
    """Its later loss is told too, wherever anybody had to wait for it."""
    h = hall(5)
    h.start_job(deadlines=Deadlines(phase_s=5))

    def lose(name: ClientId) -> bool:
        if name == "hosp-e":
            h.lose("hosp-e")
            return True
        return False

    h.before[request_] = lose
    h.run(until="round_ended")
    (end,) = h.ends
    assert (end.state, end.included, end.dropped) == ("published", tuple(SITES), ())
    missed = request_ is ConfirmRequest  # four answers open the sum, and nobody waits for a fifth
    late = (("hosp-e", "confirm: no answer in phase confirm within 5 s"),) if missed else ()
    assert end.lost == late
    told = json.loads((h.folder() / "secfed_manifest.json").read_text())
    assert told["lost_after_freeze"] == [{"site": site, "reason": reason} for site, reason in late]
    assert bool(h.notes.of("lost_after_freeze")) is missed


def test_a_site_lost_after_the_freeze_is_told_even_after_a_restart(hall: Any) -> None:
    """What is durable of it is that it did not sign."""
    h = hall(5)
    h.start_job(deadlines=Deadlines(phase_s=5))

    def lose(name: ClientId) -> bool:
        if name == "hosp-e":
            h.lose("hosp-e")
        return name == "hosp-e"

    def restart(_: ClientId) -> bool:
        del h.before[UnmaskRequest]
        h.restart()
        return True

    h.before |= {ConfirmRequest: lose, UnmaskRequest: restart}
    h.run(until="round_ended")
    (end,) = h.ends
    assert (end.state, end.included) == ("published", tuple(SITES))
    assert [site for site, _ in end.lost] == ["hosp-e"]


def test_with_three_sites_one_loss_voids_the_attempt_and_nothing_is_published(hall: Any) -> None:
    """n = 3 carries no loss: visible, and repeated once all three are back."""
    h = hall(3)
    h.start_job(deadlines=Deadlines(phase_s=5))

    def lose(name: ClientId) -> bool:
        if name == "hosp-c" and not h.notes.of("attempt_voided"):
            h.lose("hosp-c")
            return True
        return False

    h.before[Bundles] = lose
    h.run(until="attempt_voided")
    h.run(rounds=60)
    assert not h.ends
    assert not h.folder().exists()
    status = h.rounds.status().jobs[0]
    assert "hosp-c" in status.waiting_for
    assert h.rounds.wait_for(ClientId("hosp-a")).what.count("hosp-c")
    h.before.clear()
    h.bring_back("hosp-c")
    h.run(until="round_ended")
    (end,) = h.ends
    assert (end.state, end.included, end.attempt) == ("published", tuple(SITES[:3]), 2)


def test_a_void_attempt_is_not_repeated_at_once_with_the_same_sites(hall: Any) -> None:
    """Back-off: whoever stays broken does not make the federation spin."""
    h = hall(3)
    h.start_job(deadlines=Deadlines(phase_s=5))

    def refuse(name: ClientId) -> bool:
        machine = h.federation.machines[name]
        if name == "hosp-b":
            machine.says = Refused(h.rounds._open.live.h, "no")
            return True
        return False

    h.before[Bundles] = refuse
    h.run(rounds=400, pass_time=0.1, patience=400)  # 40 seconds
    voids = len(h.notes.of("attempt_voided"))
    assert 3 <= voids <= 7
    assert all("refused: no" in facts["reason"] for facts in h.notes.of("attempt_voided"))


def test_a_round_whose_attempts_all_come_to_nothing_pauses_its_job_and_says_why(hall: Any) -> None:
    """Somebody has to look; the round goes on where it was once the job is resumed."""
    h = hall(3)
    h.start_job(deadlines=Deadlines(phase_s=5))

    def refuse(name: ClientId) -> bool:
        if name != "hosp-b":
            return False
        h.federation.machines[name].says = Refused(h.rounds._open.live.h, "no")
        return True

    h.before[Bundles] = refuse
    h.run(rounds=700, pass_time=1.0, patience=700)
    (job,) = h.rounds.status().jobs
    assert len(h.notes.of("attempt_voided")) == 20
    assert job.state == "paused"
    assert "round 1: 20 attempts came to nothing, the last one: " in job.waiting_for
    assert "refused: no" in job.waiting_for
    h.before.clear()
    h.rounds.control(JobCommand(job.job, "resume"), ClientId("admin"))
    h.run(until="round_ended")
    (end,) = h.ends
    assert (end.state, end.included, end.attempt) == ("published", tuple(SITES[:3]), 21)


def test_of_a_void_attempt_no_messages_are_kept(hall: Any) -> None:
    """A thousand members' bundles are 100 MB: what binds the next cohort is their places alone."""
    h = hall(3)
    h.start_job()

    def refuse(name: ClientId) -> bool:
        h.federation.machines[name].says = Refused(h.rounds._open.live.h, "no")
        return True

    h.before[Bundles] = refuse
    h.run(until="attempt_opened")
    session = weakref.ref(h.rounds._open.live.session)
    h.run(until="attempt_voided")
    assert len(h.rounds._open._masked) == 1
    gc.collect()
    assert session() is None


def test_more_losses_than_carried_after_the_freeze_abort_the_round_for_good(hall: Any) -> None:
    """Nothing is published, all are told, and the number is gone; a spare round follows."""
    h = hall(3)
    h.start_job(deadlines=Deadlines(phase_s=5), spare_rounds=1)

    def lose(name: ClientId) -> bool:
        if name == "hosp-c" and not h.ends:
            h.lose("hosp-c")
            return True
        return False

    h.before[UnmaskRequest] = lose
    h.run(until="round_ended")
    (end,) = h.ends
    assert (end.round, end.included) == (1, ())
    assert end.state.startswith("aborted")
    assert not h.folder(1).exists()
    h.before.clear()
    h.bring_back("hosp-c")
    for name in SITES[:3]:  # another vector: the difference rule does not mind
        h.machine(name).write(a=np.zeros((2, 2), np.float32), b=np.ones(3, np.float32))
    h.run()
    assert [(each.round, each.state) for each in h.ends[1:]] == [(2, "published")]
    assert h.rounds.status().jobs[0].state == "done"


def test_a_refusal_that_the_rounds_end_overtook_makes_nobody_deaf(hall: Any) -> None:
    """All three refuse to confirm: the first refusal ends the round, and all of them hear of its end."""
    h = hall(3)
    h.start_job()

    def refuse(name: ClientId) -> bool:
        h.machine(name).says = Refused(h.rounds._open.live.h, "no")
        return True

    h.before[ConfirmRequest] = refuse
    h.run()
    (end,) = h.ends
    assert end.state.startswith("aborted")
    assert h.notes.of("outcome_refused") == []
    assert [h.machine(name).rounds.standing for name in SITES[:3]] == [Present("")] * 3


def test_without_a_spare_round_an_aborted_one_fails_the_job(hall: Any) -> None:
    h = hall(3)
    h.start_job(deadlines=Deadlines(phase_s=5))
    h.before[UnmaskRequest] = lambda name: h.lose("hosp-c") or True if name == "hosp-c" else False
    h.run(until="round_ended")
    job = h.rounds.status().jobs[0]
    assert job.state == "failed"
    assert "no spare round" in job.waiting_for


def test_a_revoked_member_is_dropped_from_the_live_attempt(hall: Any) -> None:
    h = hall(5)
    h.start_job()

    def revoke(name: ClientId) -> bool:
        if name == "hosp-e" and h.roster.version == 1:
            h.roster = membership.revoke(h.roster, h.federation.roster_key, ClientId("hosp-e"))
            h.away.add(ClientId("hosp-e"))
            h.rounds.roster_changed()
            return True
        return False

    h.before[Bundles] = revoke
    h.run(until="round_ended")
    (end,) = h.ends
    assert (end.included, end.asked) == (tuple(SITES[:4]), 4)
    assert ("hosp-e", "mask: revoked") in end.dropped


def test_a_round_that_waits_for_nobody_who_can_come_back_says_so(hall: Any) -> None:
    """Two vectors left beside one whose owner was revoked: no cohort can carry them any more."""
    h = hall(3)
    h.start_job()

    def revoke(name: ClientId) -> bool:
        if name == "hosp-c" and h.roster.version == 1:
            h.roster = membership.revoke(h.roster, h.federation.roster_key, ClientId("hosp-c"))
            h.away.add(ClientId("hosp-c"))
            h.rounds.roster_changed()
            return True
        return False

    h.before[Bundles] = revoke
    h.run(until="attempt_voided")
    h.run(rounds=60)
    waiting = h.rounds.status().jobs[0].waiting_for
    assert "vectors left from 2 sites: hosp-a, hosp-b, and go out again only beside the same ones" in waiting
    assert "gone for good (revoked, or under another key since) 1 site: hosp-c; stop the job" in waiting


def test_a_member_whose_key_was_replaced_is_dropped_from_the_live_attempt(hall: Any) -> None:
    """What it sends under the old key is cut off for good, so it could neither confirm nor answer."""
    h = hall(5)
    h.start_job()
    renewed = enrolment(ClientId("hosp-e"), ec.generate_private_key(ec.SECP256R1()))

    def rotate(name: ClientId) -> bool:
        if name == "hosp-e" and h.roster.version == 1:
            h.roster = membership.rotate(h.roster, h.federation.roster_key, renewed, now=NOW)
            h.away.add(ClientId("hosp-e"))
            h.rounds.roster_changed()
            return True
        return False

    h.before[Bundles] = rotate
    h.run(until="round_ended")
    (end,) = h.ends
    assert end.included == tuple(SITES[:4])
    assert ("hosp-e", "mask: its key was replaced") in end.dropped


# -- too few, late, declined -------------------------------------------------------------------


def test_too_few_sites_are_waited_for_visibly_and_then_pause_the_job(hall: Any) -> None:
    h = hall(3)
    h.away.add(ClientId("hosp-c"))
    h.start_job(deadlines=Deadlines(training_s=60))
    h.run(rounds=20)
    assert h.rounds.wait_for(ClientId("hosp-a")).what == "job sum-1 round 1: waiting for 1 site: hosp-c"
    assert 50 < h.rounds.wait_for(ClientId("hosp-a")).remaining_s <= 60
    h.clock.seconds += 60
    h.rounds.tick()
    job = h.rounds.status().jobs[0]
    assert job.state == "paused"
    assert "below the floor of 3" in job.waiting_for
    assert "hosp-c" in job.waiting_for
    h.restart()
    assert h.rounds.status().jobs[0].state == "paused"
    h.away.clear()
    assert h.start_job(deadlines=Deadlines(training_s=60)).state == "running"
    h.run()
    assert [end.state for end in h.ends] == ["published"]


def test_a_phase_is_awaited_since_it_began_not_since_the_site_was_ready(hall: Any) -> None:
    """Four sites wait 100 s for the fifth, which is then lost in the mask phase."""

    def members() -> dict[str, tuple[str, int]]:
        (job,) = h.rounds.status().jobs
        return {member.site: (member.state, member.since_s) for member in job.members}

    h = hall(5)
    h.away.add(ClientId("hosp-e"))
    h.start_job(deadlines=Deadlines(training_s=600, phase_s=50))
    h.run(rounds=20)
    h.clock.seconds += 100
    assert members()["hosp-e"][0] == "asked"
    assert members()["hosp-a"][0] == "ready"
    assert members()["hosp-a"][1] >= 100
    h.away.clear()
    for _ in range(60):
        h.run(rounds=1)
        if h.rounds.status().jobs[0].phase == "mask":
            break
    h.lose("hosp-e")
    h.run(rounds=10)
    begun = members()["hosp-e"][1]
    h.clock.seconds += 7
    assert begun < 50
    assert members()["hosp-e"] == ("mask: awaited", begun + 7)
    assert members()["hosp-a"] == ("mask: done", begun + 7)


def test_at_the_deadline_a_round_goes_on_with_who_is_ready(hall: Any) -> None:
    h = hall(4)
    h.away.add(ClientId("hosp-d"))
    h.start_job(deadlines=Deadlines(training_s=30))
    h.run(until="round_ended")
    (end,) = h.ends
    assert (end.asked, end.included, end.dropped) == (4, tuple(SITES[:3]), (("hosp-d", "not connected"),))
    assert 30 <= end.seconds <= 40


def test_a_site_that_declines_is_not_waited_for(hall: Any) -> None:
    h = hall(4)
    h.machine("hosp-d").write(a=np.full((2, 2), np.nan, np.float32), b=np.ones(3, np.float32))
    h.start_job()
    h.run(until="round_ended")
    (end,) = h.ends
    assert (end.included, end.dropped) == (tuple(SITES[:3]), (("hosp-d", "declined"),))


def test_a_site_that_declines_may_leave_at_once(hall: Any) -> None:
    """Its refusal is its last word on the round; who is ready, or has come, waits for more."""
    h = hall(3)
    h.start_job()
    for site, said, last in (
        ("hosp-a", Present(""), False),
        ("hosp-b", Declined(JobId("sum-1"), 1), True),
        ("hosp-c", Ready(JobId("sum-1"), 1, Digest(b"1" * 32)), False),
    ):
        assert h.rounds.hear(ClientId(site), said) is last


def test_too_many_declining_sites_pause_the_job_at_once(hall: Any) -> None:
    """Nobody waits an hour for what cannot come; resumed, the sites are asked again."""
    h = hall(3)
    h.machine("hosp-c").write(a=np.full((2, 2), np.nan, np.float32), b=np.ones(3, np.float32))
    h.start_job()
    h.run(rounds=10)
    job = h.rounds.status().jobs[0]
    assert job.state == "paused"
    assert job.waiting_for.endswith("declined by 1 site: hosp-c")
    h.machine("hosp-c").write(a=np.ones((2, 2), np.float32), b=np.ones(3, np.float32))
    h.rounds.control(JobCommand(JobId("sum-1"), "resume"), ClientId("office"))
    h.run()
    assert [end.state for end in h.ends] == ["published"]


def enrolment(name: str, tls: ec.EllipticCurvePrivateKey) -> Enrolment:
    """A client with a new key."""
    site, key, until = ClientId(name), SigningKey.generate(), NOW + timedelta(days=30)
    issued = certificate.create(tls, site, Role.CLIENT, now=NOW, valid_until=until)
    return Enrolment(site, Role.CLIENT, key.public, issued, NOW, until)


def crowd(h: Any, clients: int) -> Roster:
    """The hall's roster with so many clients; the new ones are names and keys alone."""
    tls = ec.generate_private_key(ec.SECP256R1())
    found = [enrolment(f"new-{number:03}", tls) for number in range(len(h.house.clients()), clients)]
    return membership.enroll(h.roster, h.federation.roster_key, found, now=NOW)


def test_more_sites_than_a_cohort_takes_are_refused_and_none_is_left_out_in_silence(
    hall: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise of every round's list: no subset that nobody chose. 130 of at most 130 are asked, 131 not."""
    monkeypatch.setattr(params, "COHORT_MAX", 130)
    h = hall(3)
    three, h.roster = h.roster, crowd(h, 131)
    with pytest.raises(InfeasibleCohortError, match="at most 130 sites"):
        h.start_job()
    h.roster = three
    h.start_job(rounds=2)
    h.run(until="round_ended")
    h.roster = crowd(h, 130)
    h.rounds.roster_changed()
    assert h.rounds.status().jobs[0].state == "running"
    h.roster = crowd(h, 131)
    h.rounds.roster_changed()
    (job,) = h.rounds.status().jobs
    assert job.state == "paused"
    assert "a cohort of 131 members: at most 130 sites may take part" in job.waiting_for


def test_a_grid_too_fine_for_so_many_sites_is_refused(hall: Any) -> None:
    """24 bits a coordinate leave 8 for the sites: 257 would wrap a word of 32."""
    h = hall(3)
    h.roster = crowd(h, 257)
    with pytest.raises(InfeasibleCohortError, match="257 clients at 24 bits need words of 33 bits"):
        h.start_job(bits=24)


@pytest.mark.parametrize(
    ("bits", "corrupt", "words"),
    [(24, 1, "257 clients at 24 bits need words of 33 bits"), (16, 250, "against 250 corrupt ones")],
)
def test_what_no_further_site_could_mend_pauses_a_job_before_anybody_is_asked(
    hall: Any, bits: int, corrupt: int, words: str
) -> None:
    """So many sites came while the job ran: nobody spends anything on a round that cannot be held."""
    h = hall(3)
    h.start_job(rounds=2, bits=bits)
    h.run(until="round_ended")
    h.roster = replace(crowd(h, 257), corrupt=corrupt)
    h.rounds.roster_changed()
    (job,) = h.rounds.status().jobs
    assert job.state == "paused"
    assert words in job.waiting_for


def test_a_site_for_another_job_only_is_listed_so(hall: Any) -> None:
    h = hall(4)
    machine = h.machine("hosp-d")
    machine.stop()
    machine.only = JobId("sum-2")
    h.bring_back("hosp-d")
    h.start_job()
    h.run()
    (end,) = h.ends
    assert end.dropped == (("hosp-d", "takes part in another job only"),)


# -- trained jobs ------------------------------------------------------------------------------

Q = "base_model.model.layers.0.q_proj.lora_"
ADAPTER = {f"{Q}A.weight": (2, 4), f"{Q}B.weight": (4, 2)}
TRAINING = {
    "trainer": "sft", "strategy": "ffa", "base": {"id": "tiny/model", "weights_sha256": "00" * 32},
    "lora": {"r": 2, "alpha": 4, "target_modules": ("q_proj",)}, "steps": 1, "learning_rate": "0.1",
    "adapter": ADAPTER, "seed": "07" * 32,
}  # fmt: skip


class Trainer:
    """A contributor that moves B by its site's step: what a trainer does, without the training."""

    def __init__(self, step: float) -> None:
        self.step = step
        self.bases: list[Any] = []

    def planned_event(self, plan: Any) -> NonPrivate:
        return NonPrivate("a test")

    def check(self, plan: Any) -> None:
        """Always able."""

    def contribute(self, plan: Any, round_plan: Any, base: Any) -> Update:
        self.bases.append(base)
        update = np.full((4, 2), self.step, np.float32)
        return Update({f"{Q}B.weight": update}, 1, 0, self.planned_event(plan))


class Fetched:
    """A client's way to a base adapter: straight from the aggregator's store, if it was announced."""

    def __init__(self, hall: Hall) -> None:
        self.hall = hall

    def __getitem__(self, wanted: Digest) -> Any:
        assert self.hall.rounds.announced(wanted)
        return self.hall.house.adapters.get(wanted)


def test_a_trained_job_moves_the_adapter_round_by_round(hall: Any) -> None:
    """FFA: A stays as the public seed made it, B is the mean of the steps; a round starts from the last."""
    h = hall(3)
    trainers = []
    for index, machine in enumerate(h.federation.machines.values()):
        trainer = Trainer((index + 1) / 8)
        trainers.append(trainer)
        machine.stop()
        machine.make, machine.bases = (lambda plan, made=trainer: made), Fetched(h)
        h.bring_back(machine.name)
    h.start_job(kind="train", rounds=2, shapes={f"{Q}B.weight": (4, 2)}, training=TRAINING)
    h.run()
    assert [(end.round, end.state) for end in h.ends] == [(1, "published"), (2, "published")]
    first = initial_adapter(ADAPTER, bytes([7]) * 32)
    step = 2 * 4 / (2**16 - 1)
    for number in (1, 2):
        spec, arrays = folder.read(h.folder(number))
        assert (spec.base_model, spec.r) == ("tiny/model", 2)
        assert np.array_equal(arrays[f"{Q}A.weight"], first[f"{Q}A.weight"])
        assert np.allclose(arrays[f"{Q}B.weight"], number * (1 + 2 + 3) / 8 / 3, atol=number * step)
    for trainer in trainers:
        assert np.array_equal(trainer.bases[0][f"{Q}B.weight"], first[f"{Q}B.weight"])
        published = h.house.adapters.get(Digest(bytes.fromhex(h.ends[0].result)))
        assert np.array_equal(trainer.bases[1][f"{Q}B.weight"], published[f"{Q}B.weight"])


class CommandedMeanwhile(Fetched):
    """An admin commands between the plan and the download of the first to ask."""

    def __init__(self, hall: Hall, verb: str) -> None:
        super().__init__(hall)
        self.verb = verb

    def __getitem__(self, wanted: Digest) -> Any:
        if self.verb:
            command, self.verb = JobCommand(JobId("sum-1"), self.verb), ""
            self.hall.rounds.control(command, ClientId("office"))
        return super().__getitem__(wanted)


def commanded(h: Hall, verb: str) -> list[Trainer]:
    """A trained job of one round that an admin pauses or stops before anybody has its base."""
    trainers, bases = [], CommandedMeanwhile(h, verb)
    for machine in h.federation.machines.values():
        trainer = Trainer(1 / 8)
        trainers.append(trainer)
        machine.stop()
        machine.make, machine.bases = (lambda plan, made=trainer: made), bases
        h.bring_back(machine.name)
    h.start_job(kind="train", shapes={f"{Q}B.weight": (4, 2)}, training=TRAINING)
    return trainers


def test_who_was_offered_a_round_of_a_job_that_is_paused_meanwhile_gets_its_base(hall: Any) -> None:
    """It declines nothing, waits by the pause's reason, and its contribution serves when the job goes on."""
    h = hall(3)
    trainers = commanded(h, "pause")
    h.run(rounds=20)
    assert not any(machine.rounds.refusal for machine in h.federation.machines.values())
    assert len(trainers[0].bases) == 1
    assert isinstance(h.machine("hosp-a").says, Ready)
    assert h.rounds.wait_for(ClientId("hosp-a")) == Wait("job sum-1 is paused: pause by office", 0)
    h.restart()
    assert h.rounds.wait_for(ClientId("hosp-a")).what == "job sum-1 is paused: pause by office"
    h.rounds.control(JobCommand(JobId("sum-1"), "resume"), ClientId("office"))
    h.run()
    assert [(end.state, end.included) for end in h.ends] == [("published", tuple(SITES[:3]))]
    assert [len(trainer.bases) for trainer in trainers] == [1, 1, 1]


def test_who_was_offered_a_round_of_a_job_that_is_stopped_meanwhile_hears_it(hall: Any) -> None:
    """Nothing is charged for a round that nobody holds."""
    h = hall(3)
    trainers = commanded(h, "stop")
    h.run(rounds=1)
    refusal = h.machine("hosp-a").rounds.refusal
    assert isinstance(refusal, RoundAbortedError)
    assert str(refusal).endswith("is over meanwhile: job sum-1 is stopped: stop by office")
    assert trainers[0].bases == []
    assert not h.rounds.announced(Digest(b"1" * 32))


def test_of_several_paused_jobs_a_site_hears_of_the_one_that_it_stands_ready_for(hall: Any) -> None:
    h = hall(3)
    for job in ("sum-1", "sum-2"):
        h.start_job(job=job)
    h.rounds.control(JobCommand(JobId("sum-1"), "pause"), ClientId("office"))
    h.away |= {ClientId("hosp-b"), ClientId("hosp-c")}
    h.run(rounds=5)
    h.rounds.control(JobCommand(JobId("sum-2"), "pause"), ClientId("office"))
    assert h.rounds.wait_for(ClientId("hosp-a")).what.startswith("job sum-2 is paused")
    assert h.rounds.wait_for(ClientId("hosp-b")).what.startswith("job sum-1 is paused")


def test_a_trained_job_whose_shapes_are_not_its_strategys_is_refused(hall: Any) -> None:
    h = hall(3)
    with pytest.raises(ConfigError, match="not what strategy ffa sends"):
        h.start_job(kind="train", shapes=ADAPTER, training=TRAINING)


@pytest.mark.parametrize(
    ("frozen", "why"), [((1 << 28, 1 << 28), "MemoryError"), ((), "IndexError")], ids=["size", "no sides"]
)
def test_a_job_whose_round_cannot_be_opened_is_paused_and_others_go_on(
    hall: Any, monkeypatch: pytest.MonkeyPatch, frozen: tuple[int, ...], why: str
) -> None:
    """Should a plan get past what a job is checked for: once durable, it ended the daemon at each start."""
    h = hall(3)
    training = TRAINING | {"adapter": ADAPTER | {f"{Q}A.weight": frozen}}
    bad = {"job": "bad", "kind": "train", "shapes": {f"{Q}B.weight": (4, 2)}, "training": training}
    with pytest.raises((ConfigError, EncodingError)):
        h.start_job(**bad)
    assert not h.notes.of("job_started")
    monkeypatch.setattr(entry, "check_plan", lambda _plan: None)
    reason = f"round 1 cannot be opened: {why}"
    told = h.start_job(**bad)
    assert (told.state, told.waiting_for) == ("paused", reason)
    h.restart()
    assert h.rounds.control(JobCommand(JobId("bad"), "resume"), ClientId("office")).state == "paused"
    assert f"job bad is paused: {reason}" in h.rounds.wait_for(ClientId("hosp-a")).what
    h.start_job()
    h.run()
    assert [end.state for end in h.ends] == ["published"]
    assert h.rounds.control(JobCommand(JobId("bad"), "stop"), ClientId("office")).state == "stopped"


def test_status_has_the_jobs_that_are_not_over_and_the_newest_of_the_others(
    hall: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as a reply can carry; no more than that can go on at once."""
    monkeypatch.setattr(aggregator, "JOBS_MAX", 3)
    h = hall(3)

    def told() -> list[str]:
        return [job.job for job in h.rounds.status().jobs]

    for name in ("a", "b", "c", "d", "e"):
        h.start_job(job=name)
        if name != "b":
            h.rounds.control(JobCommand(JobId(name), "stop"), ClientId("office"))
    assert told() == ["b", "d", "e"]
    assert h.rounds.status(JobId("a")).jobs[0].state == "stopped"
    h.start_job(job="f")
    h.start_job(job="g")
    assert told() == ["b", "f", "g"]
    with pytest.raises(ConfigError, match="3 jobs are not over"):
        h.start_job(job="h")
    assert told() == ["b", "f", "g"]
    h.start_job(job="g")  # known, and said again


# -- commands ----------------------------------------------------------------------------------


def test_a_paused_job_makes_no_offer_until_it_is_resumed(hall: Any) -> None:
    h = hall(3)
    h.start_job(rounds=2)
    h.rounds.control(JobCommand(JobId("sum-1"), "pause"), ClientId("office"))
    h.run(rounds=10)
    assert not h.notes.of("ready")
    assert "paused: pause by office" in h.rounds.wait_for(ClientId("hosp-a")).what
    h.rounds.control(JobCommand(JobId("sum-1"), "resume"), ClientId("office"))
    h.run()
    assert len(h.ends) == 2


def test_a_stopped_job_voids_its_attempt_and_tells_its_members(hall: Any) -> None:
    h = hall(3)
    h.start_job()
    seen: list[str] = []

    def stop(name: ClientId) -> bool:
        if not seen:
            h.rounds.control(JobCommand(JobId("sum-1"), "stop"), ClientId("office"))
        seen.append(name)
        return True

    def voided(name: ClientId) -> bool:
        seen.append(f"void {name}")
        return False

    h.before = {Bundles: stop, VoidNotice: voided}
    h.run(rounds=20)
    assert {"void hosp-a", "void hosp-b", "void hosp-c"} <= set(seen)
    assert h.rounds.status().jobs[0].state == "stopped"
    with pytest.raises(ConfigError, match="is stopped"):
        h.rounds.control(JobCommand(JobId("sum-1"), "resume"), ClientId("office"))


def test_what_cannot_be_carried_out_is_refused_at_the_start(hall: Any) -> None:
    h = hall(3, upload_bytes_max=16)
    with pytest.raises(ConfigError, match="takes up to 36 bytes"):
        h.start_job()
    with pytest.raises(InfeasibleCohortError):
        h.start_job(min_cohort=4, shapes={"a": (1,)})
    plan = h.federation.plan(created_by="hosp-a")
    with pytest.raises(NotPermittedError):
        h.rounds.start_job(sign_job_plan(h.machine("hosp-a").key, plan).text)
    h.start_job(shapes={"a": (1,)})
    with pytest.raises(ConfigError, match="another plan"):
        h.start_job(shapes={"a": (1,)}, rounds=7)
    (h.disk / "out" / "old").mkdir(parents=True)
    with pytest.raises(ConfigError, match="already holds results"):
        h.start_job(job="old", shapes={"a": (1,)})


def test_a_ledger_behind_its_last_head_is_refused(hall: Any) -> None:
    h = hall(3)
    h.start_job(rounds=5)
    ready = Ready(JobId("sum-1"), 1, Digest(bytes(32)))
    h.rounds.hear(ClientId("hosp-a"), ready, ledger=Head(9, Digest(b"1" * 32)))
    h.rounds.hear(ClientId("hosp-a"), ready, ledger=Head(9, Digest(b"1" * 32)))
    for behind in (Head(8, Digest(b"2" * 32)), Head(9, Digest(b"3" * 32))):
        with pytest.raises(LedgerError, match="not the one seen before"):
            h.rounds.hear(ClientId("hosp-a"), ready, ledger=behind)
    h.rounds.hear(ClientId("hosp-b"), ready, ledger=Head(1, Digest(b"4" * 32)))


# -- restarts ----------------------------------------------------------------------------------


def test_a_key_serves_with_one_state(hall: Any) -> None:
    """A second client with the same key is turned away, and the first goes on; so it is after a restart."""
    h = hall(3)
    h.start_job()
    site, first, second = ClientId("hosp-a"), Digest(b"1" * 32), Digest(b"2" * 32)
    ready = h.machine(site).rounds.standing
    for _ in range(2):
        h.rounds.hear(site, ready, state=first)
        with pytest.raises(AuthenticationError, match="hosp-a has served with another state") as refused:
            h.rounds.hear(site, Present(""), state=second)
        assert "keys rotate" in refused.value.hint
        with pytest.raises(AuthenticationError, match="hosp-a has served with another state"):
            h.rounds.hear(site, Present(""))  # nor may it leave its state unsaid
        h.restart()
    assert {facts["site"] for facts in h.notes.of("another_state")} == {site}
    h.states[site] = first
    h.run()
    assert [end.included for end in h.ends] == [tuple(SITES[:3])]


def test_a_key_that_never_named_a_state_is_bound_to_none(hall: Any) -> None:
    h = hall(3)
    site, state = ClientId("hosp-a"), Digest(b"1" * 32)
    h.rounds.hear(site, Present(""))
    h.restart()
    h.rounds.hear(site, Present(""))
    h.rounds.hear(site, Present(""), state=state)
    with pytest.raises(AuthenticationError):
        h.rounds.hear(site, Present(""))
    h.rounds.hear(site, Present(""), state=state)


def test_a_new_key_serves_with_a_new_state(hall: Any) -> None:
    h = hall(3)
    site = ClientId("hosp-a")
    h.rounds.hear(site, Present(""), state=Digest(b"1" * 32))
    renewed = enrolment(site, ec.generate_private_key(ec.SECP256R1()))
    h.roster = membership.rotate(h.roster, h.federation.roster_key, renewed, now=NOW)
    h.rounds.roster_changed()
    h.rounds.hear(site, Present(""), state=Digest(b"2" * 32))


def test_an_attempt_that_was_not_frozen_is_void_after_a_restart_and_repeated(hall: Any) -> None:
    h = hall(3)
    h.start_job()
    crashed: list[str] = []

    def crash(name: ClientId) -> bool:
        if not crashed:
            crashed.append(name)
            h.restart()
            return True
        return False

    h.before[Bundles] = crash
    h.run(until="round_ended")
    (end,) = h.ends
    assert (end.state, end.included, end.attempt) == ("published", tuple(SITES[:3]), 2)
    (void,) = h.notes.of("attempt_voided")
    assert "restarted" in void["reason"]


@pytest.mark.parametrize("request_", [ConfirmRequest, UnmaskRequest])
def test_a_frozen_attempt_is_finished_after_a_restart(hall: Any, request_: type) -> None:
    """The same attempt, the identical request, the exact sum."""
    h = hall(5)
    h.start_job()
    crashed: list[str] = []

    def crash(name: ClientId) -> bool:
        if len(crashed) < 3:
            crashed.append(name)
            if len(crashed) == 3:
                h.restart()
        return False

    h.before[request_] = crash
    h.run(until="round_ended")
    (end,) = h.ends
    assert (end.state, end.included, end.attempt) == ("published", tuple(SITES), 1)
    assert h.notes.of("attempt_resumed")
    assert h.decisions.scan("frozen/") == [], "megabytes that nobody needs any more"


def test_a_frozen_attempt_ends_under_the_roster_it_was_opened_with(hall: Any) -> None:
    h = hall(5)
    h.start_job()
    crashed: list[str] = []

    def crash(name: ClientId) -> bool:
        if not crashed:
            crashed.append(name)
            h.roster = membership.revoke(h.roster, h.federation.roster_key, ClientId("hosp-e"))
            h.away.add(ClientId("hosp-e"))
            h.restart()
        return False

    h.before[UnmaskRequest] = crash
    h.run(until="round_ended")
    (end,) = h.ends
    assert (end.state, end.included) == ("published", tuple(SITES))


def run_to_the_sum(h: Hall) -> Any:
    work = None
    while work is None:
        for name in h.federation.machines:
            h.turn(name)
        h.rounds.tick()
        work = h.rounds.work()
    return work


def test_nothing_is_published_before_the_rounds_end_is_durable(hall: Any) -> None:
    """A crash with the sum opened shows nothing; the restart opens it again, and publishes it."""
    h = hall(3)
    h.start_job()
    run_to_the_sum(h)()
    assert not h.folder().exists()
    h.restart()
    assert h.ends == []
    h.run()
    (end,) = h.ends
    assert end.state == "published"
    assert h.folder().exists()


def test_a_crash_between_the_rounds_end_and_its_folder_is_made_good(hall: Any, monkeypatch: Any) -> None:
    """The end was durable, so it stands, even with every client gone; the restart writes the folder, once."""
    h = hall(3)
    h.start_job()
    work = run_to_the_sum(h)

    def crash(*_: Any) -> None:
        raise StorageError("the power went")

    monkeypatch.setattr("secfed.rounds.results.write_folder", crash)
    with pytest.raises(StorageError):
        h.rounds.worked(work())
    assert not h.folder().exists()
    assert h.rounds.next_for(ClientId("hosp-a")) is None, "nobody is told before the folder stands"
    monkeypatch.undo()
    assert h.decisions.scan("frozen/")
    h.restart()
    assert h.decisions.scan("frozen/") == []
    facts = json.loads((h.folder() / "secfed_manifest.json").read_bytes())
    assert facts["included"] == SITES[:3]
    assert len(facts["survivors_signatures"]) == 3
    assert h.rounds.status().jobs[0].history[0].state == "published"
    shutil.rmtree(h.folder())
    h.restart()
    assert not h.folder().exists(), "a folder that was moved away is not written again"
    h.run()
    for machine in h.federation.machines.values():
        assert machine.site.contributions.rounds() == []


def test_an_upload_that_rots_on_disk_aborts_the_round_and_stops_nothing(hall: Any) -> None:
    """An acknowledged vector that cannot be read back is a lost one: no wrong sum, no endless restart."""
    h = hall(3)
    h.start_job()

    def rot(name: ClientId) -> bool:
        path = next((h.disk / "spool").glob("*-1"))
        data = bytearray(path.read_bytes())
        data[7] ^= 1
        path.write_bytes(bytes(data))
        h.before.clear()
        return False

    h.before[UnmaskRequest] = rot
    h.run(until="round_ended")
    (end,) = h.ends
    assert end.state == "aborted: a masked vector that was acknowledged cannot be read back"
    assert not h.folder().exists()


def test_an_upload_that_cannot_be_opened_now_is_not_given_up(hall: Any, monkeypatch: Any) -> None:
    """Too many open files, or a disk that comes back: the process stops, and a restart publishes."""
    h = hall(3)
    h.start_job()
    work = run_to_the_sum(h)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(StorageError, match="Too many open files"):
            work()
    h.restart()
    h.run()
    (end,) = h.ends
    assert end.state == "published"


def test_a_folder_with_another_result_is_never_written_over(hall: Any) -> None:
    h = hall(3)
    h.start_job()
    h.folder().mkdir(parents=True)
    (h.folder() / "secfed_manifest.json").write_text('{"result": "00"}')
    with pytest.raises(StorageError, match="another result"):
        h.run()
    assert (h.folder() / "secfed_manifest.json").read_text() == '{"result": "00"}'


def test_a_member_that_missed_the_end_hears_it_when_it_is_back(hall: Any) -> None:
    """A lost survivor keeps its contribution until it hears the outcome, even after a restart."""
    h = hall(5)
    h.start_job(deadlines=Deadlines(phase_s=5), rounds=1)
    h.before[OutcomeNotice] = lambda name: name == "hosp-b"
    h.run(rounds=60)
    assert h.ends
    assert h.machine("hosp-b").site.contributions.rounds()
    h.restart()
    h.before.clear()
    h.run()
    assert h.machine("hosp-b").site.contributions.rounds() == []


def test_ten_thousand_rounds_are_read_within_five_seconds(hall: Any) -> None:
    """Of processor time, so that a busy machine changes nothing."""
    h = hall(3)
    h.start_job(rounds=20_000)
    book = JobBook(h.decisions)
    job = book.find(JobId("sum-1"))
    sites = tuple(map(ClientId, SITES[:3]))
    zero = Digest(bytes(32))
    pattern = Ending(
        round=1, attempt=1, h=zero, statement=Signed(bytes(300), bytes(64)), published=True, included=sites,
        dropped=(), lost=(), sum=zero, transcript=zero, result=zero, weight_sum=3, saturated=0, asked=3,
        seconds=41, reason="",
    )  # fmt: skip
    h.decisions._database.execute("PRAGMA synchronous = OFF")  # only the reading is timed
    for number in range(1, 10_001):
        h_digest = Digest(number.to_bytes(32, "big"))
        book.close_round(job, replace(pattern, round=number, h=h_digest))
        book.folder_written(job, number)
    h.kill()
    begin = time.process_time()
    h.start()
    assert time.process_time() - begin < 5
    assert h.rounds.status().jobs[0].round == 10_001
    assert isinstance(h.rounds.wait_for(ClientId("hosp-a")), Wait)


# -- members that play with the clock, the form, or their time being over ----------------------


def uploading(h: Any, name: str) -> Upload:
    """Run until this client is about to send its vector, and hold it there."""
    for _ in range(40):
        said = h.machine(name).says
        if isinstance(said, Upload):
            h.away.add(ClientId(name))
            return said
        h.run(rounds=1)
    raise AssertionError("no vector was asked for")


def test_beginning_an_upload_again_is_no_progress(hall: Any) -> None:
    """The first bytes over and over do not keep the others waiting."""
    h = hall(5)
    h.start_job(deadlines=Deadlines(phase_s=5, upload_idle_s=2))
    said = uploading(h, "hosp-e")
    for _ in range(30):
        upload = h.rounds.begin_upload(ClientId("hosp-e"), said.attempt, said.statement)
        if upload is not None:
            upload.write(said.packed[:1])
            upload.abort()
        h.run(rounds=1, pass_time=1)
    (end,) = h.ends
    assert end.included == tuple(SITES[:4])
    assert end.dropped == (("hosp-e", "mask: upload timeout 2 s"),)


def byte_by_byte(h: Hall) -> tuple[Upload, Any]:
    """The last site sends one byte a second, in a phase of five."""
    h.start_job(deadlines=Deadlines(phase_s=5, upload_idle_s=2))
    said = uploading(h, "hosp-e")
    upload = h.rounds.begin_upload(ClientId("hosp-e"), said.attempt, said.statement)
    for place in range(len(said.packed)):
        upload.write(said.packed[place : place + 1])
        h.run(rounds=1, pass_time=1)
    return said, upload


def test_an_upload_that_crawls_is_dropped_for_it(hall: Any) -> None:
    """It never stands still, and would hold the others up for hours: the least rate ends it."""
    h = hall(5)
    said, upload = byte_by_byte(h)
    assert len(said.packed) > 15
    assert upload.longest_s == 5 + len(said.packed) / SLOWEST_BYTES_PER_S
    h.run(until="round_ended")
    (end,) = h.ends
    assert end.included == tuple(SITES[:4])
    assert end.dropped == (("hosp-e", "mask: upload slower than 64 KiB/s"),)


def test_a_slow_upload_that_moves_is_waited_for(hall: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(attempt, "SLOWEST_BYTES_PER_S", 0.5)
    h = hall(5)
    _, upload = byte_by_byte(h)
    assert h.rounds.status().jobs[0].remaining_s == 2, "of the idle limit"
    upload.commit()
    h.rounds.finish_upload(upload)
    h.machine("hosp-e").says = h.machine("hosp-e").rounds.standing
    h.away.clear()
    h.run()
    (end,) = h.ends
    assert (end.included, end.dropped) == (tuple(SITES), ())


def test_a_bit_after_the_last_word_drops_its_sender_alone(hall: Any) -> None:
    """Signed as sent, and still no packed vector: found before the freeze, and its sender is named."""
    h = hall(5)
    h.start_job()
    said = uploading(h, "hosp-e")
    packed = said.packed[:-1] + bytes([said.packed[-1] | 0x80])
    codec, key = ProtoCodec(), h.machine("hosp-e").key
    masked = replace(
        codec.decode(MaskedStatement, said.statement.statement), vector=hashlib.sha256(packed).digest()
    )
    statement = signed.sign(
        key, Label.SIGN_MASKED, context=said.attempt, sender="hosp-e", recipient=None,
        statement=codec.encode(masked),
    )  # fmt: skip
    h.machine("hosp-e").says = Upload(said.attempt, statement, packed)
    h.away.clear()
    h.run(until="round_ended")
    (end,) = h.ends
    assert (end.state, end.included) == ("published", tuple(SITES[:4]))
    assert end.dropped == (("hosp-e", "mask: a packed vector has a bit set after its last word"),)
    assert h.refused == [("hosp-e", "a packed vector has a bit set after its last word")]


@pytest.mark.parametrize("sites", [5, 3], ids=["the attempt goes on", "the attempt is void"])
def test_an_answer_that_breaks_a_rule_is_refused_to_its_sender(hall: Any, sites: int) -> None:
    """The sender hears why, whatever it does to the attempt; and then the round is held without it."""
    h = hall(sites)
    h.start_job()
    bad = ClientId(SITES[sites - 1])

    def spoil(name: ClientId) -> bool:
        if name != bad or h.refused:
            return False
        live = h.rounds._open.live.h
        h.machine(name).says = Answer(live, SignedReply(Signed(b"no advert", bytes(64))))
        return True

    h.before[OpenAttempt] = spoil
    h.run(until="round_ended")
    why = f"the signature under a statement of {bad} does not verify (sign_advert)"
    assert h.refused == [(bad, why)]
    (end,) = h.ends
    if sites == 5:
        assert (end.included, end.dropped) == (tuple(SITES[:4]), ((bad, f"advertise: {why}"),))
    else:
        (void,) = h.notes.of("attempt_voided")
        assert why in void["reason"]
        assert (end.included, end.attempt) == (tuple(SITES[:3]), 2)


def test_a_member_whose_entry_has_run_out_is_in_no_cohort(hall: Any) -> None:
    h = hall(4)
    past = h.house.now() - timedelta(seconds=1)
    h.roster = replace(
        h.roster,
        members=tuple(
            replace(member, valid_until=past) if member.site == "hosp-d" else member
            for member in h.roster.members
        ),
    )
    h.start_job()
    h.run(until="attempt_opened")
    assert h.notes.of("attempt_opened")[0]["cohort"] == tuple(SITES[:3])

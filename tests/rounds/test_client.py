"""The client's story, driven request by request over real sessions, stores and messages."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from secfed.errors import (
    BudgetExceededError,
    DecisionConflictError,
    DifferenceRuleError,
    EncodingError,
    LockedError,
    PeerError,
    PolicyRefusedError,
    RosterError,
    SecfedError,
    StaleAttemptError,
)
from secfed.identity import membership
from secfed.identity.roles import Role
from secfed.ids import Digest, JobId, RoundId
from secfed.privacy.entries import Budget
from secfed.privacy.events import NonPrivate
from secfed.rounds.charge import dp_event
from secfed.rounds.client import ClientRounds
from secfed.rounds.exchange import Answer, Ask, Declined, Offer, Present, Ready, Refused, Wait
from secfed.rounds.plan import BaseModelSpec, DpSpec, LoraSpec, TrainSpec
from secfed.rounds.ports import Update
from secfed.secagg.client import ClientSession
from secfed.secagg.messages import OpenAttempt

BASE = Digest(bytes(range(32)))


def ready(federation, plan, number=1, machines=None, base=None):
    """Start and offer; every site says that it is ready."""
    chosen = list(machines if machines is not None else federation.machines.values())
    for machine in chosen:
        if not hasattr(machine, "rounds"):
            machine.start()
        offer = federation.offer(plan, number) if base is None else federation.offer(plan, number, base)
        assert isinstance(machine.rounds.hear(offer), Ready), machine.rounds.refusal
    return chosen


def entries(machine):
    """The ledger's bodies, straight from the file."""
    return [json.loads(line)["body"] for line in machine.ledger_path.read_bytes().splitlines()]


def kinds(machine):
    return [body["type"] for body in entries(machine)]


def refused(machine):
    """The rule behind the last refusal that was noted."""
    return [facts for event, facts in machine.notes.heard if event == "refused"][-1]


# -- a whole round -----------------------------------------------------------------------------


def test_a_vector_round_gives_the_weighted_sum_and_ends_included(federation):
    """Three sites, the whole story: the opened sum is that of their files, to within the grid."""
    plan = federation.plan()
    machines = ready(federation, plan)
    host = federation.begin(plan, 1, machines)
    host.run(machines)
    ends = host.finish(machines)
    assert [(end.included, end.members, end.reason) for end in ends] == [(True, 3, "")] * 3
    arrays = plan.layout.unflatten(host.sum.mean())
    assert np.allclose(arrays["a"], (1 + 2 + 3) / 8 / 3, atol=2e-4)
    assert np.allclose(arrays["b"], np.arange(3) * (1 + 1 / 2 + 1 / 3) / 3, atol=2e-4)
    assert (host.sum.weight_sum, host.sum.counters) == (3, (0,))
    for machine in machines:
        assert machine.site.contributions.rounds() == []
        assert machine.rounds.hear(Wait("nothing", 0)) == Present("")
        assert kinds(machine) == ["open", "reserve", "sent"]


def test_the_next_round_names_the_last_one_and_goes_through(federation):
    plan = federation.plan()
    machines = ready(federation, plan)
    for number in (1, 2):
        ready(federation, plan, number, machines)
        host = federation.begin(plan, number, machines)
        host.run(machines)
        assert all(end.included for end in host.finish(machines))


def test_charge_comes_before_ready_and_sent_before_the_vector(federation):
    """I1: RESERVE stands when the site says Ready, SENT when its first masked byte exists."""
    plan = federation.plan()
    machines = ready(federation, plan)
    machine = machines[0]
    assert kinds(machine) == ["open", "reserve"]
    host = federation.begin(plan, 1, machines)
    host.run(machines, until="mask")
    assert kinds(machine) == ["open", "reserve"]
    host.pass_on(machine)
    assert kinds(machine) == ["open", "reserve", "sent"]
    assert machine.record.left(RoundId(JobId("sum-1"), 1)) != ()


def test_the_ledgers_digest_is_keyed(federation):
    """Sites with the same file write different digests: without the key an entry tells nothing."""
    plan = federation.plan(bits=2)
    machines = list(federation.machines.values())
    for machine in machines:
        machine.write(a=np.full((2, 2), 4, np.float32), b=np.full(3, 4, np.float32))  # on the grid: no dice
    ready(federation, plan, machines=machines)
    words = [machine.rounds._held.contribution for machine in machines]
    assert all(np.array_equal(words[0].words(), each.words()) for each in words)
    assert len({each.digest for each in words}) == len({each.unrounded for each in words}) == 3


# -- crashes and retries -----------------------------------------------------------------------


def test_a_restart_finds_the_contribution_and_charges_nothing(federation):
    """Killed between ready and the sum: the same words again, one reservation."""
    plan = federation.plan()
    machine = ready(federation, plan)[0]
    before = machine.rounds._held.contribution.words()
    machine.stop()
    rounds = machine.start()
    assert rounds.standing == Present("")
    assert isinstance(rounds.hear(federation.offer(plan)), Ready)
    assert np.array_equal(rounds._held.contribution.words(), before)
    assert kinds(machine) == ["open", "reserve"]


def test_a_vector_that_left_goes_out_again_under_fresh_masks(federation):
    """Void, then a second attempt: other bytes, the same words behind them, no second charge."""
    plan = federation.plan()
    machines = ready(federation, plan)
    first = federation.begin(plan, 1, machines)
    first.run(machines, until="confirm")
    machines[0].stop()
    machines[0].start()
    assert isinstance(machines[0].rounds.hear(federation.offer(plan)), Ready)
    for machine in machines[1:]:
        assert isinstance(first.void(machine), Ready)
    second = federation.begin(plan, 1, machines)
    second.run(machines)
    assert all(end.included for end in second.finish(machines))
    assert all(first.vectors[i] != second.vectors[i] for i in range(3))
    arrays = plan.layout.unflatten(second.sum.mean())
    assert np.allclose(arrays["a"], 6 / 8 / 3, atol=2e-4)
    bodies = entries(machines[0])
    assert [body["type"] for body in bodies] == ["open", "reserve", "sent", "sent"]
    assert bodies[2]["contribution"] == bodies[3]["contribution"]


@pytest.mark.parametrize("step", ["before:replace", "before:rename"])
def test_killed_before_the_contribution_is_durable_charges_again(federation, step):
    """The first reservation stands: a batch may have been drawn. Making it again is a new one."""
    plan = federation.plan()
    machine = next(iter(federation.machines.values()))
    machine.start()
    machine.fail_at = step
    with pytest.raises(BaseException, match=step):
        machine.rounds.hear(federation.offer(plan))
    machine.fail_at = ""
    machine.stop()
    rounds = machine.start()
    assert isinstance(rounds.hear(federation.offer(plan)), Ready)
    assert kinds(machine) == ["open", "reserve", "reserve"]
    assert "charged_again" in machine.notes.words()


def test_a_closed_round_leaves_nothing_even_if_the_end_was_a_crash(federation):
    """Killed between the durable close and the removal: the next start removes the contribution."""
    plan = federation.plan()
    machines = ready(federation, plan)
    host = federation.begin(plan, 1, machines)
    host.run(machines)
    notice = host.outcome()
    machine = machines[0]
    machine.fail_at = "before:remove"
    with pytest.raises(BaseException, match="before:remove"):
        machine.rounds.hear(Ask(host.session.h, notice))
    machine.fail_at = ""
    machine.stop()
    assert machine.site.contributions.rounds() != []
    machine.start()
    assert machine.site.contributions.rounds() == []
    assert isinstance(machine.rounds.hear(federation.offer(plan)), Declined)  # the round is over here


def test_after_a_restart_the_outcome_is_still_countersigned(federation):
    """Restarted after its shares were given: Present, Ready, and the outcome of the very attempt."""
    plan = federation.plan()
    machines = ready(federation, plan)
    host = federation.begin(plan, 1, machines)
    host.run(machines)
    machines[0].stop()
    machines[0].start()
    assert isinstance(machines[0].rounds.hear(federation.offer(plan)), Ready)
    said = machines[0].rounds.hear(Ask(host.session.h, host.outcome()))
    assert isinstance(said, Answer)
    assert machines[0].rounds.ended.included


def test_the_outcome_repeated_gets_the_same_countersignature(federation):
    plan = federation.plan()
    machines = ready(federation, plan)
    host = federation.begin(plan, 1, machines)
    host.run(machines)
    ask = Ask(host.session.h, host.outcome())
    first = machines[0].rounds.hear(ask)
    assert machines[0].rounds.hear(ask) == first
    assert machines[0].rounds.ended is None  # it ended once


def test_an_aborted_round_ends_not_included_and_closes(federation):
    plan = federation.plan()
    machines = ready(federation, plan)
    host = federation.begin(plan, 1, machines)
    host.run(machines, until="unmask")
    ends = host.finish(machines, published=False)
    assert [(end.included, end.reason) for end in ends] == [(False, "the round was aborted")] * 3
    assert isinstance(machines[0].rounds.hear(federation.offer(plan)), Declined)
    assert isinstance(
        machines[0].rounds.hear(federation.offer(plan, 2)), Ready
    )  # the same vector, a new release
    assert kinds(machines[0]) == ["open", "reserve", "sent", "reserve"]


def test_a_site_that_was_left_out_closes_the_round(build_federation):
    """Ready, but not in the cohort: nothing is signed, and the round is over here for good."""
    federation = build_federation(4)
    plan = federation.plan()
    *cohort, spare = ready(federation, plan)
    host = federation.begin(plan, 1, cohort)
    host.run(cohort)
    notice = host.outcome()
    assert spare.rounds.hear(Ask(host.session.h, notice)) == Present("")
    assert (spare.rounds.ended.included, spare.rounds.ended.reason) == (False, "not in the round's cohort")
    assert spare.site.contributions.rounds() == []
    assert isinstance(spare.rounds.hear(federation.offer(plan)), Declined)
    assert isinstance(spare.rounds.hear(federation.offer(plan, 2)), Ready)
    forged = replace(notice, statement=replace(notice.statement, signature=bytes(64)))
    assert isinstance(cohort[0].rounds.hear(Ask(host.session.h, forged)), Refused)


def test_the_end_of_one_round_ends_no_other_for_a_site_that_was_left_out(build_federation):
    """It cannot tell the round by h; the statement names it."""
    federation = build_federation(4)
    plan = federation.plan()
    *cohort, spare = ready(federation, plan)
    host = federation.begin(plan, 1, cohort)
    host.run(cohort)
    notice = host.outcome()
    ready(federation, plan, 2, [spare])
    assert isinstance(spare.rounds.hear(Ask(host.session.h, notice)), Refused)
    assert spare.rounds.ended is None
    assert spare.rounds.standing.round == 2
    assert spare.site.contributions.rounds() == [RoundId(JobId("sum-1"), 2)]


@pytest.mark.parametrize("restarted", [True, False])
@pytest.mark.parametrize("published", [True, False])
def test_an_outcome_that_comes_late_ends_no_later_round(federation, restarted, published):
    """The notice of round 1 while round 2 is in hand: the same signature again, or a refusal."""
    plan = federation.plan()
    machines = ready(federation, plan)
    machine = machines[0]
    host = federation.begin(plan, 1, machines)
    host.run(machines)
    notice = Ask(host.session.h, host.outcome(published=published))
    first = None if restarted else machine.rounds.hear(notice)
    if restarted:
        machine.stop()
        machine.start()
    ready(federation, plan, 2, [machine])
    again = machine.rounds.hear(notice)
    assert again == first or (restarted and isinstance(again, Refused))
    assert machine.rounds.ended is None
    assert machine.rounds.standing.round == 2
    assert machine.site.contributions.rounds() == [RoundId(JobId("sum-1"), 2)]


def test_a_second_client_on_the_same_state_is_turned_away(federation):
    machine = next(iter(federation.machines.values()))
    machine.start()
    twin = replace(machine, _open=[])
    with pytest.raises(LockedError):
        twin.start()


# -- offers that are refused -------------------------------------------------------------------


def test_a_forged_plan_is_refused_before_anything_is_written(federation):
    """A changed byte, another signer, another federation: no entry, no decision."""
    plan = federation.plan()
    machine = next(iter(federation.machines.values()))
    rounds = machine.start()
    good = federation.offer(plan)
    aggregator, admin = federation.aggregator, federation.admin
    federation.admin = aggregator
    by_aggregator = federation.offer(plan)
    federation.admin, federation.aggregator = admin, admin
    by_admin = federation.offer(plan)
    federation.aggregator = aggregator
    for offer in (
        Offer(good.job_plan.replace(b'"rounds": 3', b'"rounds": 9'), good.round_plan),
        Offer(good.job_plan, good.round_plan.replace(b'"round": 1', b'"round": 2')),
        Offer(good.job_plan[:-2], good.round_plan),
        Offer(by_aggregator.job_plan, by_aggregator.round_plan),
        Offer(good.job_plan, by_admin.round_plan),
        Offer(good.job_plan, federation.offer(federation.plan(job="sum-2")).round_plan),
        federation.offer(federation.plan(federation="0" * 32)),
    ):
        with pytest.raises(PeerError):
            rounds.hear(offer)
    assert not machine.ledger_path.exists()
    assert machine.site.decisions.scan("job-plan/") == []


def test_a_plan_by_somebody_who_is_no_admin_is_refused(federation):
    """The signature is right, the role is not: a client cannot start a job."""
    machine, other = list(federation.machines.values())[:2]
    federation.admin = other.key
    with pytest.raises(RosterError):
        machine.start().hear(federation.offer(federation.plan(created_by=other.name)))


def test_a_plan_by_a_revoked_admin_is_refused(federation):
    machine = next(iter(federation.machines.values()))
    rounds = machine.start()
    machine.site.rosters.accept(
        membership.revoke(
            federation.roster, federation.roster_key, federation.roster.active(Role.ADMIN)[0].site
        ).text
    )
    with pytest.raises(RosterError, match="revoked"):
        rounds.hear(federation.offer(federation.plan()))


def test_one_name_has_one_plan_for_good(federation):
    """A second plan under the name of an accepted job is declined, restarts included."""
    machine = next(iter(federation.machines.values()))
    machine.start()
    assert isinstance(machine.rounds.hear(federation.offer(federation.plan())), Ready)
    machine.stop()
    rounds = machine.start()
    assert isinstance(rounds.hear(federation.offer(federation.plan(bound="3"), 2)), Declined)
    assert "another plan" in str(rounds.refusal)


def test_a_round_is_offered_with_one_plan(federation):
    """The same round with another deadline, so another plan: declined."""
    machine = next(iter(federation.machines.values()))
    rounds = machine.start()
    plan = federation.plan()
    assert isinstance(rounds.hear(federation.offer(plan)), Ready)
    job, _ = federation.propose(plan)
    other = federation.propose(plan, 1, BASE)[1]
    assert isinstance(rounds.hear(Offer(job.text, other.text)), Declined)


def test_rounds_only_grow_and_end_with_the_plan(federation):
    machine = next(iter(federation.machines.values()))
    rounds = machine.start()
    plan = federation.plan(spare_rounds=1)
    assert isinstance(rounds.hear(federation.offer(plan, 2)), Ready)
    assert isinstance(rounds.hear(federation.offer(plan, 1)), Declined)
    assert "later" in str(rounds.refusal)
    assert isinstance(rounds.hear(federation.offer(plan, 5)), Declined)
    assert "beyond" in str(rounds.refusal)
    assert isinstance(rounds.hear(federation.offer(plan, 4)), Ready)


def test_a_client_for_one_job_declines_others(federation):
    machine = next(iter(federation.machines.values()))
    machine.only = JobId("sum-2")
    rounds = machine.start()
    assert rounds.standing == Present("sum-2")
    assert isinstance(rounds.hear(federation.offer(federation.plan())), Declined)
    assert isinstance(rounds.hear(federation.offer(federation.plan(job="sum-2"))), Ready)


def test_a_vector_that_does_not_fit_is_declined_before_the_charge(federation):
    """NaN, a wrong shape, beyond the bound: the file is named, nothing is charged."""
    machine = next(iter(federation.machines.values()))
    rounds = machine.start()
    good = np.zeros(3, np.float32)
    for arrays, said in (
        ({"a": np.full((2, 2), np.nan, np.float32), "b": good}, "not finite"),
        ({"a": np.zeros((2, 3), np.float32), "b": good}, "shape"),
        ({"a": np.full((2, 2), 5, np.float32), "b": good}, "bound"),
    ):
        machine.write(**arrays)
        assert isinstance(rounds.hear(federation.offer(federation.plan())), Declined)
        assert isinstance(rounds.refusal, EncodingError)
        assert said in str(rounds.refusal)
        assert "'a'" in str(rounds.refusal)
    assert not machine.ledger_path.exists()


# -- the secure sum's rules, through the client ------------------------------------------------


def test_the_same_vectors_with_one_member_fewer_are_refused(build_federation):
    """Difference rule: n = 5, then the same contributions without one; those four would show its vector."""
    federation = build_federation(5)
    plan = federation.plan()
    machines = ready(federation, plan)
    host = federation.begin(plan, 1, machines)
    host.run(machines)
    host.finish(machines)
    four = machines[:4]
    ready(federation, plan, 2, four)
    second = federation.begin(plan, 2, four)
    second.run(four, until="confirm")
    assert isinstance(second.pass_on(four[0]), Refused)
    assert refused(four[0])["error"] == DifferenceRuleError.__name__


def test_another_vector_is_no_difference(build_federation):
    """The same four may sum again with new vectors: the rule is about what would be seen twice."""
    federation = build_federation(5)
    plan = federation.plan()
    machines = ready(federation, plan)
    host = federation.begin(plan, 1, machines)
    host.run(machines)
    host.finish(machines)
    four = machines[:4]
    for machine in four:
        machine.write(a=np.ones((2, 2), np.float32), b=np.ones(3, np.float32))
    ready(federation, plan, 2, four)
    second = federation.begin(plan, 2, four)
    second.run(four)
    assert all(end.included for end in second.finish(four))


def test_the_sites_own_floor_holds_against_a_smaller_cohort(build_federation):
    """A policy of 4 in a federation of 3: a plan for 4 is taken, its cohort of 3 is not."""
    federation = build_federation(4)
    plan = federation.plan(min_cohort=4)
    machines = list(federation.machines.values())
    strict = machines[0]
    strict.policy = strict.policy.model_copy(
        update={"job": strict.policy.job.model_copy(update={"min_cohort": 4})}
    )
    ready(federation, plan, machines=machines)
    host = federation.begin(plan, 1, machines[:3])
    assert isinstance(host.pass_on(strict), Refused)
    assert "floor" in refused(strict)["rule"]


def test_a_manifest_under_an_older_roster_is_refused(federation):
    """Once a newer roster is held, only attempts under it are joined."""
    plan = federation.plan()
    machines = ready(federation, plan)
    host = federation.begin(plan, 1, machines)
    machines[0].site.rosters.accept(
        membership.revoke(federation.roster, federation.roster_key, machines[2].name).text
    )
    assert isinstance(host.pass_on(machines[0]), Refused)
    assert "sign_manifest" in refused(machines[0])["rule"]  # the signature is bound to the roster's digest


def test_an_attempt_that_is_not_newer_is_refused(federation):
    plan = federation.plan()
    machines = ready(federation, plan)
    host = federation.begin(plan, 1, machines)
    host.pass_on(machines[0])
    host.void(machines[0])
    machines[0].stop()
    machines[0].start()
    assert isinstance(machines[0].rounds.hear(federation.offer(plan)), Ready)
    assert isinstance(host.give(machines[0], OpenAttempt(host.session.signed_manifest)), Refused)
    assert refused(machines[0])["error"] == StaleAttemptError.__name__


# -- training with a budget --------------------------------------------------------------------

DP = DpSpec(
    unit="record",
    sampling_num=2**64 // 100,
    noise_multiplier="1.0",
    clip="1",
    nominal_units=1000,
    delta="0.000001",
)
SHAPES = {"x.lora_B.weight": (2, 2), "y.lora_B.weight": (3,)}
TRAIN = TrainSpec(
    trainer="sft",
    strategy="ffa",
    base=BaseModelSpec(id="public/model", weights_sha256="ab" * 32),
    lora=LoraSpec(r=2, alpha=4, target_modules=("x",)),
    adapter=SHAPES,
    steps=50,
    learning_rate="0.01",
    seed="cd" * 32,
)


class Local:
    """A contributor with an update of its own making, and a count of how often it was asked."""

    def __init__(self, scale=0.5, event=None):
        self.runs, self.scale, self.event = 0, scale, event

    def planned_event(self, plan):
        return dp_event(plan) or NonPrivate("a test")

    def check(self, plan):
        pass

    def contribute(self, plan, round_plan, base):
        self.runs += 1
        arrays = {name: np.full(shape, self.scale, np.float32) for name, shape in plan.shapes.items()}
        return Update(arrays, 1, 0, self.event or self.planned_event(plan))


def train_plan(federation, **changes):
    fields = {"kind": "train", "shapes": SHAPES, "training": TRAIN, "dp": DP, "job": "train-1", "rounds": 5}
    return federation.plan(**(fields | changes))


def trainers(federation, epsilon="8", **kwargs):
    machines = list(federation.machines.values())
    for machine in machines:
        machine.local = Local(**kwargs)
        machine.make = lambda _plan, local=machine.local: local
        machine.budget = Budget(epsilon, "0.000001", 1000)
        machine.bases = {BASE: {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}}
    return machines


def test_a_private_round_is_charged_as_its_plan_says(federation):
    plan = train_plan(federation)
    machines = trainers(federation)
    ready(federation, plan, machines=machines, base=BASE)
    host = federation.begin(plan, 1, machines, BASE)
    host.run(machines)
    assert all(end.included for end in host.finish(machines))
    reserve = entries(machines[0])[1]
    assert (reserve["event"]["kind"], reserve["event"]["steps"]) == ("poisson_gaussian", 50)


def test_values_beyond_the_bound_are_clamped_and_counted_under_the_mask(federation):
    """Mode example: the trainer's noise is in already, so a clamp is free; the sum shows only the total."""
    plan = train_plan(federation, bound="0.25")
    machines = trainers(federation, scale=0.5)
    ready(federation, plan, machines=machines, base=BASE)
    host = federation.begin(plan, 1, machines, BASE)
    host.run(machines)
    host.finish(machines)
    assert host.sum.counters == (3 * 7,)
    assert np.allclose(host.sum.mean(), 0.25, atol=1e-5)


def test_the_cap_reached_in_round_two_is_refused_before_training(federation):
    """The filter's figure of one round fits, of two it does not; the reason stays at the site."""
    plan = train_plan(federation)
    machine = trainers(federation, epsilon="1.9")[0]
    rounds = machine.start()
    assert isinstance(rounds.hear(federation.offer(plan, 1, BASE)), Ready)
    assert rounds.hear(federation.offer(plan, 2, BASE)) == Declined(JobId("train-1"), 2)
    assert isinstance(rounds.refusal, BudgetExceededError)
    assert (machine.local.runs, kinds(machine)) == (1, ["open", "reserve"])


def test_more_charges_than_the_plan_has_rounds_are_refused(federation):
    """rounds = 2 and a run cut short: the policy's figure was for two charges, so there is no third."""
    plan = train_plan(federation, rounds=2)
    machine = trainers(federation)[0]
    machine.start()
    machine.fail_at = "before:rename"
    with pytest.raises(BaseException, match="rename"):
        machine.rounds.hear(federation.offer(plan, 1, BASE))
    machine.fail_at = ""
    machine.stop()
    rounds = machine.start()
    assert isinstance(rounds.hear(federation.offer(plan, 1, BASE)), Ready)
    assert isinstance(rounds.hear(federation.offer(plan, 2, BASE)), Declined)
    assert "2 charges" in str(rounds.refusal)
    assert machine.local.runs == 2


def test_an_event_that_was_not_reserved_never_leaves(federation):
    """The contributor did something else than it was charged for: declined, and the charge stands."""
    plan = train_plan(federation)
    machine = trainers(federation, event=NonPrivate("no noise was added"))[0]
    rounds = machine.start()
    assert isinstance(rounds.hear(federation.offer(plan, 1, BASE)), Declined)
    assert type(rounds.refusal) is SecfedError
    assert machine.site.contributions.rounds() == []
    assert kinds(machine) == ["open", "reserve"]


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"x.lora_B.weight": np.zeros((2, 2), np.float32)},
        {"x.lora_B.weight": np.zeros((2, 3), np.float32), "y.lora_B.weight": np.zeros(3, np.float32)},
        {"x.lora_B.weight": np.zeros((2, 2), np.float64), "y.lora_B.weight": np.zeros(3, np.float32)},
        {"x.lora_B.weight": np.zeros((2, 2), np.float32), "y.lora_B.weight": np.full(3, np.nan, np.float32)},
    ],
    ids=["empty", "missing", "shape", "type", "nan"],
)
def test_a_base_that_does_not_fit_the_plan_is_declined_before_the_charge(federation, broken):
    machine = trainers(federation)[0]
    machine.bases = {BASE: broken}
    rounds = machine.start()
    assert isinstance(rounds.hear(federation.offer(train_plan(federation), 1, BASE)), Declined)
    assert isinstance(rounds.refusal, PeerError)
    assert "base adapter" in str(rounds.refusal)
    assert machine.local.runs == 0
    assert not machine.ledger_path.exists() or kinds(machine) == ["open"]


def test_a_library_that_fails_ends_the_round_and_says_no_value(federation):
    """As a row that a model cannot take: declined and charged, the process goes on."""

    class Failing(Local):
        def contribute(self, plan, round_plan, base):
            raise IndexError("of the patient named Smith")

    machine = trainers(federation)[0]
    machine.make = lambda _plan: Failing()
    rounds = machine.start()
    offer = federation.offer(train_plan(federation), 1, BASE)
    assert rounds.hear(offer) == Declined(JobId("train-1"), 1)
    assert "IndexError" in str(rounds.refusal)
    assert "Smith" not in str(rounds.refusal)
    assert kinds(machine) == ["open", "reserve"]


def test_a_plan_outside_the_policy_is_declined_before_the_ledger_is_touched(federation):
    plan = train_plan(federation, dp=DP.model_copy(update={"noise_multiplier": "0.3"}))
    machine = trainers(federation)[0]
    rounds = machine.start()
    assert isinstance(rounds.hear(federation.offer(plan, 1, BASE)), Declined)
    assert isinstance(rounds.refusal, PolicyRefusedError)
    assert not machine.ledger_path.exists()


def test_a_plan_for_another_unit_than_the_ledgers_is_declined(federation):
    """A ledger of records takes no promise about persons; it says so as a policy, not as a broken ledger."""
    dp = DP.model_copy(update={"unit": "person", "records_per_unit": 2})
    machine = trainers(federation)[0]
    rounds = machine.start()
    assert isinstance(rounds.hear(federation.offer(train_plan(federation, dp=dp), 1, BASE)), Declined)
    assert isinstance(rounds.refusal, PolicyRefusedError)


def test_private_releases_are_exempt_from_the_difference_rule(build_federation):
    federation = build_federation(5)
    plan = train_plan(federation)
    machines = trainers(federation)
    ready(federation, plan, machines=machines, base=BASE)
    host = federation.begin(plan, 1, machines, BASE)
    host.run(machines)
    host.finish(machines)
    four = machines[:4]
    ready(federation, plan, 2, four, BASE)
    second = federation.begin(plan, 2, four, BASE)
    second.run(four)
    assert all(end.included for end in second.finish(four))


def test_unnoised_training_is_compared_under_its_base(build_federation):
    """Without noise, two sums on one base that differ by one member would show that member."""
    federation = build_federation(5)
    plan = train_plan(federation, dp=None)
    machines = trainers(federation)
    ready(federation, plan, machines=machines, base=BASE)
    host = federation.begin(plan, 1, machines, BASE)
    host.run(machines)
    host.finish(machines)
    four = machines[:4]
    ready(federation, plan, 2, four, BASE)
    second = federation.begin(plan, 2, four, BASE)
    second.run(four, until="confirm")
    assert isinstance(second.pass_on(four[0]), Refused)


def test_a_policy_that_was_tightened_meanwhile_holds_for_a_stored_contribution(federation):
    """Made under the old policy, not sent under the new one."""
    plan = federation.plan()
    machine = ready(federation, plan)[0]
    machine.stop()
    job = machine.policy.job.model_copy(update={"allow_non_private": False})
    machine.policy = machine.policy.model_copy(update={"job": job})
    rounds = machine.start()
    assert isinstance(rounds.hear(federation.offer(plan)), Declined)
    assert isinstance(rounds.refusal, PolicyRefusedError)


def test_a_contribution_that_left_and_was_lost_is_never_made_again(federation):
    """Its file is gone after its vector was sent: the round is declined, and nothing more is charged."""
    plan = federation.plan()
    machines = ready(federation, plan)
    machine = machines[0]
    host = federation.begin(plan, 1, machines)
    host.run(machines, until="mask")
    host.pass_on(machine)
    machine.site.contributions.discard(JobId("sum-1"), up_to=1)
    machine.stop()
    rounds = machine.start()
    assert isinstance(rounds.hear(federation.offer(plan)), Declined)
    assert "never made again" in str(rounds.refusal)
    assert kinds(machine) == ["open", "reserve", "sent"]
    assert isinstance(rounds.hear(federation.offer(plan, 2)), Ready)


def test_a_cohort_with_an_expired_member_is_refused(federation):
    """The same offer, answered today, is refused the day after the roster's entries have run out."""
    plan = federation.plan()
    machines = ready(federation, plan)
    host = federation.begin(plan, 1, machines)
    ask = Ask(host.session.h, host.ask(machines[0]))
    late = ClientRounds(replace(machines[0].site, now=lambda: federation.now + timedelta(days=366)))
    late._held = machines[0].rounds._held
    assert isinstance(late.hear(ask), Refused)
    assert isinstance(machines[0].rounds.hear(ask), Answer)


def test_a_conflicting_decision_is_refused_without_its_text(federation, monkeypatch):
    """A store's error names files of this site, which are nobody else's business."""
    plan = federation.plan()
    machines = ready(federation, plan)
    host = federation.begin(plan, 1, machines)

    def conflict(_session, _request):
        raise DecisionConflictError("/srv/site/decisions.sqlite: decided otherwise")

    monkeypatch.setattr(ClientSession, "receive", conflict)
    said = machines[0].rounds.hear(Ask(host.session.h, host.ask(machines[0])))
    assert isinstance(said, Refused)
    assert "/" not in said.rule
    assert "/srv/site" in refused(machines[0])["rule"]

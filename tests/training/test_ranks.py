"""Two processes train one site's round as one would: one draw, one noise, each unit in one place."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from witness import Witness, assert_one_draw_and_one_noise

from secfed.aggregation.registry import by_name
from secfed.errors import ConfigError, SecfedError
from secfed.rounds.plan import Deadlines, JobPlan, RoundPlan
from secfed.training import dpsgd
from secfed.training.channel import Channel
from secfed.training.contributor import SiteSettings, TrainingContributor
from secfed.training.pieces import Ladder
from secfed.training.random import Stream
from secfed.training.ranks import Team, _facts, _read, assist
from secfed.training.task import IGNORED, Example
from secfed.training.trainer import LocalTrainer

SECOND = Path(__file__).with_name("second_rank.py")
STREAM_KEY = b"\x07" * 32
WAIT_S = 240
CPU = torch.device("cpu")
LADDER = Ladder(16, 24, frozenset({16, 24}))
ROWS, PERSONS = 40, 17

Start = Callable[[str], tuple[Team, "subprocess.Popen[bytes]"]]


def plan_of(train: Any, dp: Any) -> JobPlan:
    return JobPlan(
        federation="ab" * 16, job="job", kind="train", created="2026-01-01T00:00:00Z", created_by="admin",
        rounds=2, shapes=by_name(train.strategy).wire_shapes(train.adapter), bound="0.5",
        training=train, dp=dp,
    )  # fmt: skip


def round_plan() -> RoundPlan:
    return RoundPlan(job="job", job_plan="00" * 32, round=1, base="00" * 32, deadlines=Deadlines())


@pytest.fixture
def process(base_folder: Callable[[str], Path], tmp_path: Path) -> Iterator[Start]:
    """Rank 1 as a process of its own, and rank 0's view of it."""
    children: list[subprocess.Popen[bytes]] = []

    def start(kind: str) -> Any:
        meeting, folder = tmp_path / "meeting", base_folder(kind)
        command = [sys.executable, str(SECOND), str(meeting), str(folder), str(tmp_path)]
        child = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
        children.append(child)
        return Team(Channel(0, 2, meeting), lambda _id: folder, "float32"), child

    yield start
    for child in children:
        child.kill()
        child.wait()


@pytest.fixture
def thread(base_folder: Callable[[str], Path], tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Rank 1 as a thread, which speaks over the same sockets; and what it ended with."""
    with ThreadPoolExecutor(1) as pool:

        def start(second: Callable[[Channel], None], precision: Any = "float32") -> Any:
            meeting, folder = tmp_path / "meeting", base_folder("bert")
            ended = pool.submit(lambda: second(Channel(1, 2, meeting)))
            return Team(Channel(0, 2, meeting), lambda _id: folder, precision), ended

        yield start


@pytest.fixture
def job(
    make_trainer: Callable[..., LocalTrainer], train_spec: Callable[..., Any], dp_spec: Callable[..., Any]
) -> Callable[..., Any]:
    """A plan whose persons have up to three records, and what makes its trainer."""

    def make(kind: str) -> Any:
        train = train_spec(kind, strategy="fedavg", steps=3, optimizer="sgd", learning_rate="1.0")
        dp = dp_spec(unit="person", records_per_unit=3)
        return train, dp, partial(make_trainer, kind, train, dp, rows=ROWS, persons=PERSONS)

    return make


@pytest.fixture
def told(base_folder: Callable[[str], Path]) -> Callable[..., None]:
    """A second rank hears a plan, and holds what it takes."""

    def hear(channel: Channel, train: Any, dp: Any) -> None:
        assert channel.hear()[0]["kind"] == "plan"
        assert channel.alike(_facts(train, dp, base_folder("bert"), "float32", CPU, LADDER))

    return hear


@pytest.mark.timeout(600)  # another process loads torch, on a machine that has other things to do
def test_two_ranks_give_the_update_of_one(
    process: Start,
    job: Callable[..., Any],
    first_adapter: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """The same coins: the same sums before noise, and the same update, twice in a row; each step draws one
    batch and one vector of noise, at rank 0, by what both processes wrote of themselves.
    """
    train, dp, trainer = job("bert")
    draws: list[int] = []
    words = Stream.words

    def counted(self: Stream, count: int) -> Any:
        draws.append(count)
        return words(self, count)

    sums: list[np.ndarray] = []
    noise = dpsgd.SecretNoiseOptimizer.add_noise

    def seen(self: dpsgd.SecretNoiseOptimizer) -> None:
        sums.append(self.flat_sum())
        noise(self)

    monkeypatch.setattr(Stream, "words", counted)
    monkeypatch.setattr(dpsgd.SecretNoiseOptimizer, "add_noise", seen)
    base = first_adapter(train)
    single = trainer()
    alone = single.run(base, entropy=lambda _count: STREAM_KEY)
    draws_alone, dealt = draws.copy(), []
    draws.clear()

    team, child = process("bert")
    team.prepare(train, dp, CPU, single.ladder)
    deal = Team.deal

    def noted(self: Team, units: Any, examples: Any, parameters: Any) -> Any:
        own = deal(self, units, examples, parameters)
        dealt.append((len(units), len(own)))
        return own

    monkeypatch.setattr(Team, "deal", noted)
    Witness(tmp_path, 0).watch(monkeypatch.setattr)
    here = trainer(helpers=team)
    for _ in range(2):
        team.begin(base)
        shared = here.run(base, entropy=lambda _count: STREAM_KEY)
        assert draws == draws_alone  # one batch and one vector of noise a step, here and nowhere else
        draws.clear()
        assert shared.event == alone.event
        for name, value in alone.arrays.items():
            np.testing.assert_allclose(shared.arrays[name], value, rtol=1e-5, atol=1e-5)
    for first, second in zip(sums[:3] * 2, sums[3:], strict=True):
        np.testing.assert_allclose(second, first, atol=1e-5 * np.abs(first).max())
    assert len(dealt) == 6
    assert max(all_of - own for all_of, own in dealt) > 1  # the second rank had something to do
    assert all(own == -(-all_of // 2) for all_of, own in dealt)
    team.close()
    assert child.wait(WAIT_S) == 0
    std = float(dp.noise_multiplier) * float(dp.clip)
    assert_one_draw_and_one_noise(tmp_path, rounds=2, steps=train.steps, std=std)


def test_ranks_that_differ_decline_before_a_charge_and_go_on(
    thread: Callable[..., Any], job: Callable[..., Any], base_folder: Callable[[str], Path]
) -> None:
    """Another precision at the other rank, then a plan that it cannot load: it hears of the next one."""
    train, dp, _ = job("bert")
    gone = train.model_copy(update={"base": train.base.model_copy(update={"id": "tiny/gone"})})
    refusals: list[SecfedError] = []

    def folder(model: str) -> Path:
        if model == "tiny/gone":
            raise ConfigError("no such model here")
        return base_folder("bert")

    def second(channel: Channel) -> None:
        assist(channel, folder, device="cpu", precision="float32", on_refusal=refusals.append)

    team, ended = thread(second, "bfloat16")
    try:
        for plan in (train, gone):
            with pytest.raises(SecfedError, match="cannot load this job, or the ranks differ"):
                team.prepare(plan, dp, CPU, LADDER)
            team.alive()
    finally:
        team.close()
    assert ended.exception(WAIT_S) is None
    assert [str(problem) for problem in refusals] == ["no such model here"]


def test_unlike_devices_threads_and_pieces_are_facts(
    job: Callable[..., Any], base_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal records could be rounded differently on them."""
    train, dp, _ = job("bert")
    facts = [
        _facts(train, dp, base_folder("bert"), "bfloat16", torch.device(kind), ladder)
        for kind, ladder in (("cpu", LADDER), ("mps", LADDER), ("cpu", Ladder(16, 24, frozenset({8}))))
    ]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    facts.append(_facts(train, dp, base_folder("bert"), "bfloat16", CPU, LADDER))
    assert len(set(facts)) == 4


def test_nothing_is_charged_once_a_rank_is_gone(
    thread: Callable[..., Any],
    job: Callable[..., Any],
    first_adapter: Callable[..., Any],
    base_folder: Callable[[str], Path],
    rows_for: Callable[..., Any],
    write_rows: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """The round in which it goes fails; `check`, which comes before each charge, then refuses."""
    train, dp, _ = job("bert")

    def leave(channel: Channel) -> None:
        heard = []
        while "step" not in heard:
            heard.append(channel.hear()[0]["kind"])
            if heard[-1] == "plan":
                channel.alike(_facts(train, dp, base_folder("bert"), "float32", CPU, LADDER))
            elif heard[-1] == "alive":
                channel.alike(b"\x01" * 32)
        assert heard == ["alive", "plan", "alive", "alive", "round", "step"]

    team, ended = thread(leave)
    settings = SiteSettings(
        data=write_rows(rows_for("bert", ROWS, PERSONS)),
        model_folder=lambda _id: base_folder("bert"),
        scratch=tmp_path / "scratch",
        unit="person",
        device="cpu",
    )
    here = TrainingContributor(settings, STREAM_KEY, team=team, entropy=lambda _count: STREAM_KEY)
    plan = plan_of(train, dp)
    here.check(plan)
    here.check(plan)
    with pytest.raises(SecfedError, match="gone"):
        here.contribute(plan, round_plan(), first_adapter(train))
    assert ended.exception(WAIT_S) is None
    with pytest.raises(SecfedError, match="out of step"):
        here.check(plan)


def test_a_process_that_has_not_read_the_meeting_is_told_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its greeting is another one: both ends hang up before anything is said."""
    greet = Channel._greet
    monkeypatch.setattr(
        Channel, "_greet", lambda self, secret: greet(self, secret if self.rank == 0 else bytes(32))
    )
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(Channel, 1, 2, tmp_path / "meeting")
        with pytest.raises(SecfedError, match="none of this site's ranks"):
            Channel(0, 2, tmp_path / "meeting")
        assert "none of this site's ranks" in str(other.exception(WAIT_S))


def test_a_rank_that_never_comes_is_not_waited_for_without_end(tmp_path: Path) -> None:
    with pytest.raises(SecfedError, match="gone"):
        Channel(1, 2, tmp_path / "meeting", joining=timedelta(seconds=0.2))


def test_a_rank_that_is_gone_ends_the_round(
    thread: Callable[..., Any],
    job: Callable[..., Any],
    first_adapter: Callable[..., Any],
    told: Callable[..., None],
) -> None:
    """It leaves in the middle of a step: no update comes out, nor a later one until all start again."""
    train, dp, trainer = job("bert")
    base = first_adapter(train)

    def leave(channel: Channel) -> None:
        told(channel, train, dp)
        assert [channel.hear()[0]["kind"] for _ in range(2)] == ["round", "step"]

    team, ended = thread(leave)
    team.prepare(train, dp, CPU, LADDER)
    here = trainer(helpers=team)
    team.begin(base)
    with pytest.raises(SecfedError, match="gone"):
        here.run(base, entropy=lambda _count: STREAM_KEY)
    assert ended.exception(WAIT_S) is None
    with pytest.raises(SecfedError, match="out of step"):
        team.prepare(train, dp, CPU, LADDER)


def test_ranks_that_part_leave_nothing_behind(
    thread: Callable[..., Any], base_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """Sent home before there was anything to do; the file that they met through went when they had met."""
    team, ended = thread(
        lambda channel: assist(channel, lambda _id: base_folder("bert"), device="cpu", precision="float32")
    )
    assert not (tmp_path / "meeting").exists()
    team.close()
    assert ended.exception(WAIT_S) is None
    assert not (tmp_path / "meeting").exists()


def test_units_that_are_missing_are_noticed(
    thread: Callable[..., Any],
    job: Callable[..., Any],
    first_adapter: Callable[..., Any],
    told: Callable[..., None],
) -> None:
    """A rank that answers for fewer units than it was dealt: refused, though the sum looks right."""
    train, dp, trainer = job("bert")

    def careless(channel: Channel) -> None:
        told(channel, train, dp)
        channel.hear()
        channel.hear()
        coordinates = sum(math.prod(shape) for shape in train.adapter.values())
        channel.total(np.zeros(coordinates + 1))

    team, _ = thread(careless)
    team.prepare(train, dp, CPU, LADDER)
    here, base = trainer(helpers=team), first_adapter(train)
    team.begin(base)
    with pytest.raises(SecfedError, match="missing"):
        here.run(base, entropy=lambda _count: STREAM_KEY)


@given(
    tokens=st.lists(st.integers(0, 2**31), min_size=1, max_size=5),
    desirable=st.booleans(),
    nested=st.booleans(),
)
def test_records_arrive_as_they_are(tokens: list[int], desirable: bool, nested: bool) -> None:
    """What `deal` writes is what the other rank trains on."""
    plain = Example(tuple(tokens), tuple([IGNORED] * len(tokens)), cut=3, desirable=desirable)
    example = dataclasses.replace(plain, rejected=plain, beside=plain) if nested else plain
    written = json.loads(json.dumps([[dataclasses.asdict(example)] * 2, [dataclasses.asdict(plain)]]))
    assert _read(written) == ([example, example, plain], [(0, 1), (2,)])

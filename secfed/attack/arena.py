"""One federation on loopback, in a folder: its people, their vectors, and whoever is to be attacked.

The adversary plays the aggregator with its real keys, and up to A sites: the last ones of the
roster. All others are honest, and unmodified. Their vectors lie on the job's grid, so that what
an adversary takes from a sum can be held against the truth to the last bit.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from secfed.attack.clients import UPDATE_FILE, Client, ClientProcess, ClientThread, Victims
from secfed.attack.finding import Report
from secfed.attack.hostile import Hostile, Received
from secfed.attack.people import ADMIN, AGGREGATOR, gather
from secfed.encoding.contribution import encode_contribution
from secfed.encoding.fixedpoint import FixedPoint
from secfed.errors import NetworkError
from secfed.identity.fields import write_time
from secfed.ids import NO_DIGEST, ClientId, Digest
from secfed.rounds.exchange import Offer, Ready, Said
from secfed.rounds.plan import BaseModelSpec, Deadlines, JobPlan, LoraSpec, RoundPlan, TrainSpec
from secfed.rounds.proposal import JobProposal, RoundProposal, sign_job_plan, sign_round_plan
from secfed.secagg.params import Params

__all__ = ["Arena"]

_ARRAY = "x"
_BOUND, _BITS = 4.0, 16
_LENGTH = 24
"""Coordinates of a vector: few, and still no two vectors are alike by chance."""

_NO_COUNTS = (0,)
"""Of a vector that lies within its bound nothing was clamped."""

_TRAINING = TrainSpec(
    trainer="sft",
    strategy="fedavg",
    base=BaseModelSpec(id="public/model", weights_sha256="00" * 32),
    lora=LoraSpec(r=1, alpha=1, target_modules=("x",)),
    steps=1,
    learning_rate="0.1",
    adapter={_ARRAY: (_LENGTH,)},
    seed="00" * 32,
)
"""Nobody here has this model: updates were made elsewhere, and only the base's name counts."""


class Arena:
    """A federation whose aggregator the adversary plays; use `with`.

    Args:
        root: A new folder; removed at the end.
        sites: Clients; the last A of them are the adversary's.
        corrupt: A; None for the roster's default.
        min_cohort: Of the roster.
        training: Its jobs train on a base, and sites push updates that were made elsewhere.
        near_bound: Every coordinate is within a tenth of the most that the grid carries.
        victims: What clients on threads are made of.
        processes: Honest clients are processes, not threads.

    Attributes:
        people: Everybody, with all keys: an attack uses only those that its adversary has.
        owner: The honest owner of the roster key.
        honest: Sites that run unmodified clients.
        corrupt: Sites that the adversary plays.
        hostile: The scripted aggregator.
        grid: The grid of every job.
    """

    def __init__(
        self,
        root: Path,
        sites: int,
        *,
        corrupt: int | None,
        min_cohort: int,
        training: bool,
        near_bound: bool,
        victims: Victims,
        processes: bool,
    ) -> None:
        self.root = root
        root.mkdir(parents=True)
        self.people, self.owner = gather(root, sites, corrupt=corrupt, min_cohort=min_cohort)
        self._victims, self._processes, self._training = victims, processes, training
        bad = self.people.roster.corrupt
        self.honest, self.corrupt = self.people.sites[:-bad], self.people.sites[-bad:]
        self.grid = FixedPoint(_BOUND, _BITS)
        rng, least = np.random.default_rng(), self.grid.levels * 9 // 10 if near_bound else 0
        self._steps = {
            site: rng.integers(least, self.grid.levels, _LENGTH, endpoint=True) for site in self.people.sites
        }
        self._clients: dict[ClientId, Client] = {}
        self.hostile = Hostile(self.people.keys[AGGREGATOR], self.people.roster, sites)

    def __enter__(self) -> Self:
        self.hostile.__enter__()
        for site in self.honest:
            save_file({_ARRAY: self.vector(site)}, self.people.home(site) / UPDATE_FILE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in self._clients.values():
            client.halt()
        self.hostile.let_go()
        for client in self._clients.values():
            client.kill()
        self.hostile.__exit__()
        shutil.rmtree(self.root)

    # -- vectors -------------------------------------------------------------------------------

    def vector(self, site: ClientId) -> NDArray[np.float64]:
        """A site's vector, shape (length,), all coordinates on the job's grid."""
        return np.asarray(self._steps[site] * self.grid.step - self.grid.bound, dtype=np.float64)

    def words(self, sites: Iterable[ClientId]) -> NDArray[np.uint32]:
        """The true sum of these sites' encoded vectors, which the adversary is not to learn of a few."""
        every = [encode_contribution(self.vector(site), 1, _NO_COUNTS, self.grid) for site in sites]
        return np.asarray(np.sum(every, axis=0, dtype=np.uint32))

    @property
    def params(self) -> Params:
        """The thresholds of a cohort of all sites."""
        roster = self.people.roster
        return Params.complete(len(self.people.sites), roster.corrupt, min_cohort=roster.min_cohort)

    def promised(self, params: Params) -> int:
        """m: the fewest honest vectors that a sum may be opened over."""
        certain = params.quorum if params.on_ring else params.threshold + 1
        return max(certain, self.people.roster.min_cohort) - self.people.roster.corrupt

    # -- plans ---------------------------------------------------------------------------------

    def job(self, name: str = "sum") -> JobProposal:
        """A job, signed by the honest admin."""
        plan = JobPlan(
            federation=self.people.roster.federation,
            job=name,
            kind="train" if self._training else "vector",
            created=write_time(datetime.now(UTC)),
            created_by=ADMIN,
            rounds=4,
            shapes={_ARRAY: (_LENGTH,)},
            bound=str(int(_BOUND)),
            bits=_BITS,
            training=_TRAINING if self._training else None,
        )
        return sign_job_plan(self.people.keys[ADMIN].signing, plan)

    def round(self, job: JobProposal, number: int = 1, *, base: Digest = NO_DIGEST) -> RoundProposal:
        """A round of it, signed by the aggregator."""
        plan = RoundPlan(
            job=job.plan.job,
            job_plan=job.digest.hex(),
            round=number,
            base=base.hex(),
            deadlines=Deadlines(),
        )
        return sign_round_plan(self.people.keys[AGGREGATOR].signing, plan)

    # -- clients -------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """Where the hostile aggregator listens: this machine, and no other."""
        return f"127.0.0.1:{self.hostile.port}"

    def begin(self, report: Report) -> None:
        """Start all honest clients, and note who is who."""
        kind = "processes" if self._processes else "threads"
        more = f" to {self.corrupt[-1]}" if len(self.corrupt) > 1 else ""
        report.saw(
            f"{len(self.honest)} honest clients ({kind}); the adversary plays the aggregator and "
            f"{self.corrupt[0]}{more}"
        )
        self.start()

    def start(self, *sites: ClientId) -> None:
        """Start honest clients, all if none is named; one that was killed starts on its files."""
        for site in sites or self.honest:
            if site not in self._clients:
                self._clients[site] = self._client(site)
            self._clients[site].start()

    def open_round(self, report: Report) -> tuple[JobProposal, RoundProposal]:
        """Start all honest clients, and have them ready for the first round of a job."""
        self.begin(report)
        job = self.job()
        round_ = self.round(job)
        self.make_ready(job, round_)
        return job, round_

    def _client(self, site: ClientId) -> Client:
        if self._processes:
            command = "push" if self._training else "run"
            return ClientProcess(self.people, site, self.address, command=command)
        return ClientThread(self.people, site, self.address, self._victims)

    def kill(self, site: ClientId) -> None:
        """End a client at once; what was durable stays."""
        client = self._clients[site]
        client.halt()
        self.hostile.release(site)
        client.kill()

    def make_ready(
        self, job: JobProposal, round_: RoundProposal, sites: Iterable[ClientId] | None = None
    ) -> None:
        """Offer a round until each of these sites (all honest ones) is ready for it.

        Raises:
            NetworkError: One declines it.
        """
        offer = Offer(job.text, round_.text)
        heard = self.hostile.tell_all(dict.fromkeys(sites or self.honest, offer))
        for site, said in heard.items():
            if not isinstance(said, Ready) or said.round_plan != round_.digest:
                raise NetworkError(f"{site} is not ready for the round that was offered: {words_of(said)}")


def words_of(said: Said | Received) -> str:
    """What a site said, for the evidence: a refusal with its rule."""
    match said:
        case Received():
            return "its masked vector"
        case _:
            return type(said).__name__

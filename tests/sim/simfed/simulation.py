"""A whole federation in memory, driven by a seed: processes, calls between them, and what goes wrong.

The scheduler picks one thing after another: a client gets its turn, time passes for the aggregator, a
process dies or starts, a clock is set. In the chaotic part messages and disks fail as the weather says,
and some clients may lie; where the roster changes, its owner enrols, revokes and exchanges keys in the
middle of all that, and the aggregator and the sites hear of it one after another. An admin may pause the
job, let it go on, and stop it, at any moment. In the calm part that follows nothing more goes wrong, and
everything must come to an end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from simfed.invariants import Sites
from simfed.liar import Liar
from simfed.line import Line
from simfed.nodes import (
    UNWILLING,
    WILLING,
    AggregatorNode,
    ClientNode,
    Clock,
    Disk,
    Down,
    OneSlotContributor,
    SkewedClock,
)
from simfed.owner import Owner
from simfed.people import BOUND, JOB, People, people
from simfed.pure import remembered
from simfed.weather import CALM, Weather
from simfed.witness import Witness

from secfed.errors import ConfigError
from secfed.ids import ClientId, JobId
from secfed.rounds.exchange import JobCommand, JobState
from secfed.rounds.jobs import Ending, JobBook

CALM_STEPS = 6000
"""After this many undisturbed steps a federation that has not come to an end is stuck."""

_SKEW_S = 100 * 86_400
"""How far a clock may be set off: beyond the roster's entries, which begin today, on one side."""

_CHANGES, _BY_HAND = 0.02, 0.004
"""Probabilities of a new roster, and of one that comes by hand, in a step."""

_COMMANDS = 0.02
"""Probability of a command by a busy admin in a step."""

_VERBS = (*6 * ("pause", "resume"), "stop")

_OVER = ("done", "failed", "stopped")

_LATELY = 60
"""Lines of the trace that tell what keeps a federation from going on."""

_STEPS = 60
"""Durable effects that a node has in a job, roughly."""


@dataclass
class Simulation:
    """One federation with an honest aggregator under one seed.

    Args:
        steps: How many steps the chaotic part has.
        pace: Steps a simulated second: at a slow one sites seem to be away between two calls.
        liars: How many of the clients are corrupt; at most A of them.
        unwilling: One site's policy refuses the job.
        changing: The roster changes.
        ruled: An admin pauses the job, lets it go on, and stops it.
    """

    seed: int
    directory: Path
    clients: int = 0
    rounds: int = 0
    spare_rounds: int = 2
    steps: int = 280
    pace: float = 4.0
    weather: Weather | None = None
    constant: bool | None = None
    liars: int = 0
    unwilling: bool = False
    changing: bool = False
    ruled: bool = False
    trace: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.clients = self.clients or self.random.choice((3, 3, 4, 5, 5, 6, 7))
        self.weather = self.weather or Weather.of(self.random)
        self.rounds = self.rounds or self.random.choice((1, 2))
        if self.constant is None:
            self.constant = self.random.random() < 0.2
        self.clock = Clock()
        self.people: People = people(self.clients)
        names = list(self.people.clients)
        owned: Sites = frozenset(self.random.sample(names, self.liars))
        job = self.people.plan(rounds=self.rounds, spare_rounds=self.spare_rounds)
        dice = Random(f"owner {self.seed}")
        self._admin = Random(f"admin {self.seed}")
        self._commanded: list[str] = []  # what was acknowledged
        self.owner = Owner(self.people, dice, _CHANGES if self.changing else 0.0, owned)
        self.witness = Witness(self.owner, job, owned)
        self.nodes = {name: self._node(name) for name in names}
        self._untold: list[Callable[[], None]] = []
        if self.unwilling:
            self.nodes[self.random.choice(names)].policy = UNWILLING
        self.center = AggregatorNode(
            self.people,
            self.directory / "center",
            SkewedClock(self.clock),
            self._disk(),
            job,
            self._note,
        )
        self.line = Line(
            self.random,
            self.clock,
            self.weather,
            self.center,
            self.nodes,
            self.witness,
            Liar(self.random, self.people, owned),
            self.trace,
        )
        self._plan_one_failure()

    def _plan_one_failure(self) -> None:
        """Sometimes one write is chosen beforehand, at which a disk refuses or its process dies."""
        disk = self.random.choice([self.center, *self.nodes.values()]).disk
        step = self.random.randrange(_STEPS)
        if self.weather is not CALM and self.random.random() < 0.2:
            disk.crash_at, disk.fail_at = self.random.choice(((step, -1), (-1, step)))

    def _node(self, name: ClientId) -> ClientNode:
        contributor = OneSlotContributor(int(name.removeprefix("site-")), bool(self.constant))
        node = ClientNode(
            name,
            self.people,
            self.owner.keys[name],
            self.owner.newest,
            self.directory / name,
            SkewedClock(self.clock),
            self._disk(),
            contributor,
            self._note,
            policy=WILLING,
        )
        if name not in self.witness.owned:
            contributor.begins = lambda plan, round_plan: self.witness.begins(node, plan, round_plan)
        return node

    def _disk(self) -> Disk:
        assert self.weather is not None
        return Disk(self.random, self.weather.crash, self.weather.fail)

    def _note(self, text: str) -> None:
        self.trace.append(f"{self.clock.seconds:8.1f} {text}")

    # -- the whole course ----------------------------------------------------------------------

    @remembered()
    def run(self) -> list[Ending]:
        """Trouble, then calm; returns how the rounds ended.

        Raises:
            AssertionError: An invariant is broken; its name comes first.
        """
        try:
            for _ in range(self.steps):
                self.step()
            self.calm()
            for number in range(CALM_STEPS if self._ends() else CALM_STEPS // 6):
                if number % 25 == 0 and self._over():
                    break
                self.step()
            return self.conclude()
        finally:
            for node in self.nodes.values():
                node.kill()
            self.center.kill()

    def calm(self) -> None:
        """From here on nothing goes wrong, but for a crash or failure that was asked for at a step."""
        self._note("-- calm --")
        self.weather = self.line.weather = CALM
        self.line.late_said, self.line.late_told = [], []
        self.owner.changes, self.ruled = 0.0, False
        self._hand_out(at_once=True)
        for node in (self.center, *self.nodes.values()):
            node.disk.calm()
            node.clock.skew_s = 0.0

    def _ends(self) -> bool:
        """Whether progress is promised: nobody lies or stays away, and no two sums are too much alike."""
        return not (self.constant or self.liars or self.unwilling)

    def _is_stranded(self, job: JobState) -> bool:
        """Whether the owner left a job nobody to go on with: progress is not promised then.

        Vectors went out beside keys that count no longer, or A is too large for those who are left. An
        aggregator that was restarted since does not know of the vectors, and hears it in each attempt anew.
        """
        told = ("beside the same ones", "cannot defend themselves")
        refused = "vector left in attempt"
        return self.changing and (
            any(words in job.waiting_for for words in told)
            or any(refused in line for line in self.trace[-_LATELY:])
        )

    def _over(self) -> bool:
        """Whether the job has ended; what is paused goes on once it is calm."""
        if self.center.rounds is None:
            return False
        (job,) = self.center.rounds.status().jobs
        if job.state == "paused" and self.weather is CALM:
            if self._is_stranded(job):
                return True
            self._command("resume")
            return False
        finishing = job.state == "stopped" and self.center.rounds.awaiting is not None
        return job.state in _OVER and not finishing

    def _command(self, verb: str) -> None:
        """The admin gives a command; what was acknowledged is noted."""
        command = JobCommand(JobId(JOB), verb)
        try:
            self.center.guard(lambda rounds: rounds.control(command, ClientId("office")))
        except Down:
            self.line.drop_calls()
        except ConfigError:  # the job is over, and says so
            assert self.center.rounds is not None
            assert self.center.rounds.status().jobs[0].state in _OVER
        else:
            self._note(f"admin: {verb}")
            self._commanded.append(verb)

    def conclude(self) -> list[Ending]:
        """Check what must hold at the end."""
        if self.center.rounds is None:
            self.center.start()
        assert self.center.rounds is not None
        self.witness.look(self.center)
        self.witness.at_the_end(self.nodes.values())
        job = JobBook(self.center.house.decisions).find(JobId(JOB))
        self.witness.ended(job.endings)
        for ending in job.endings:
            if ending.published:
                self.witness.slots(
                    self.center, ending, lambda number: BOUND if self.constant else BOUND - number / 64
                )
        if "stop" in self._commanded:
            assert job.state == "stopped", f"a stop that was acknowledged does not stand: {job.state}"
        if self._ends():
            state = self.center.rounds.status().jobs[0]
            assert job.state in _OVER or self._is_stranded(state), (
                f"liveness: {state.state} {state.phase} {state.waiting_for}"
            )
        return list(job.endings)

    # -- one step ------------------------------------------------------------------------------

    def step(self) -> None:
        """One thing happens somewhere."""
        assert self.weather is not None
        self.clock.seconds += self.random.expovariate(self.pace)
        if self.owner.changes:
            self._change_roster()
        if self.ruled and self.center.rounds is not None and self._admin.random() < _COMMANDS:
            self._command(self._admin.choice(_VERBS))
        roll = self.random.random()
        if self.center.rounds is not None and roll < self.weather.kill_aggregator:
            self._kill_center()
        elif roll < 0.15:
            self._center()
        else:
            self.line.turn(self.random.choice(list(self.nodes.values())))
        if self.random.random() < self.weather.clock:
            self._set_a_clock()
        self.witness.raise_broken()

    def _set_a_clock(self) -> None:
        node = self.random.choice([self.center, *self.nodes.values()])
        node.clock.skew_s = self.random.choice((0.0, self.random.uniform(-_SKEW_S, _SKEW_S)))

    def _kill_center(self) -> None:
        self._note("center: killed")
        self.center.kill()
        self.line.drop_calls()

    def _center(self) -> None:
        """Time passes for the aggregator, or it does a piece of work."""
        if self.center.rounds is None:
            self.center.start()
            self._untold.clear()
            self.witness.look(self.center)
            if self.center.rounds is not None:
                self.witness.follows(self.center)
            return
        try:
            self._follow_roster()
            self.center.guard(lambda rounds: rounds.tick())
            work = self.center.guard(lambda rounds: rounds.work())
            if work is not None:
                done = self.center.guard(lambda _: work())
                self.center.guard(lambda rounds: rounds.worked(done))
                self.witness.look(self.center)
        except Down:
            self.line.drop_calls()
            self.witness.look(self.center)

    # -- rosters that change -------------------------------------------------------------------

    def _change_roster(self) -> None:
        """Perhaps the owner publishes a version, and what lies ready comes to somebody."""
        site = self.owner.act()
        if site is not None:
            self._note(f"owner: roster version {self.owner.newest.version} is about {site}")
            if site not in self.nodes:
                self.nodes[site] = self._node(site)
        self._hand_out(at_once=False)

    def _hand_out(self, *, at_once: bool) -> None:
        """The aggregator's roster file is exchanged, a site goes over to its new key.

        Now and then a site's people put the newest roster into its file themselves, which may be before
        the aggregator has it.
        """
        dice, newest = self.owner.random, self.owner.newest
        if self.center.directory.is_dir() and (at_once or dice.random() < 0.1):
            self.center.roster_path.write_bytes(newest.text)
        for name, node in self.nodes.items():
            if node.key is not self.owner.keys[name] and (at_once or dice.random() < 0.1):
                self._note(f"{name}: goes over to its new key")
                self.line.kill(node)
                node.change_key(self.owner.keys[name])
        if dice.random() < _BY_HAND:
            node = dice.choice(list(self.nodes.values()))
            self.line.kill(node)
            if node.directory.is_dir():
                node.roster_path.write_bytes(newest.text)

    def _follow_roster(self) -> None:
        """As the daemon: go by the file, tell the rounds, cut off who is out; there is time in between."""
        if self.center.guard(lambda _: self.center.look_at_the_file()):
            self._untold[:] = [self._tell_roster, self.line.cut]
        while self._untold and self.owner.random.random() < 0.7:
            self._untold.pop(0)()

    def _tell_roster(self) -> None:
        self.center.guard(lambda rounds: rounds.roster_changed())
        self.witness.follows(self.center)

    def lose(self, name: ClientId) -> None:
        """One client dies; it comes back when its turn comes."""
        self.line.kill(self.nodes[name])

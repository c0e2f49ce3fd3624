"""The numbers of one attempt, computed by every party from n, A and the floors; never received.

2t > k + A keeps an aggregator that owns A members from opening both secrets of one client,
and 2q > n + A keeps two different survivor sets from both being certified. Up to 128 members
everybody masks with everybody; in larger cohorts each masks with its neighbours on a ring
(`graph`), whose k and t are found by `degree`.
"""

from __future__ import annotations

from dataclasses import dataclass

from secfed.errors import InfeasibleCohortError
from secfed.limits import COHORT_MAX
from secfed.secagg.degree import corrupt_among, degree

__all__ = ["COHORT_MIN", "COMPLETE_GRAPH_MAX", "Params", "corrupt_near"]

COHORT_MIN = 3
"""With two members each could read the other's vector off the sum."""

COMPLETE_GRAPH_MAX = 128
"""Largest cohort in which everybody masks with everybody: beyond it, work and messages that grow with
the square of n cost more than the ring's."""

_LOSSES_SHARE = 10
"""An aggregator sizes a ring for a tenth of its members lost, where the floors leave so many."""


@dataclass(frozen=True, slots=True)
class Params:
    """Thresholds of one attempt.

    Attributes:
        clients: n, members of the frozen cohort.
        corrupt: A, members of the whole roster that may collude with the aggregator.
        neighbours: k; n - 1 on the complete graph.
        threshold: t, shares that open a secret.
        quorum: q, signatures that make a survivor set valid.
        floor: Fewest survivors that a client confirms.
        losses: D, members that may be lost at any point without losing the attempt; on the ring
            but for a probability of 2^-20.
    """

    clients: int
    corrupt: int
    neighbours: int
    threshold: int
    quorum: int
    floor: int
    losses: int

    @classmethod
    def of(
        cls,
        clients: int,
        corrupt: int,
        *,
        min_cohort: int,
        survivors_min: int = 0,
        losses: int | None = None,
    ) -> Params:
        """The numbers of a cohort of any size.

        Args:
            losses: D as the manifest has it: 0 on the complete graph, where it follows. None for the
                aggregator that is about to write one.

        Raises:
            InfeasibleCohortError: As `complete` and `ring`.
        """
        if clients <= COMPLETE_GRAPH_MAX:
            if losses:
                raise InfeasibleCohortError(
                    f"how many of {clients} members may be lost follows from their number; {losses} are named"
                )
            return cls.complete(clients, corrupt, min_cohort=min_cohort, survivors_min=survivors_min)
        return cls.ring(clients, corrupt, min_cohort=min_cohort, survivors_min=survivors_min, losses=losses)

    @classmethod
    def complete(cls, clients: int, corrupt: int, *, min_cohort: int, survivors_min: int = 0) -> Params:
        """Work out t, q, D and the survivors' floor where everybody masks with everybody.

        Raises:
            InfeasibleCohortError: Too few or too many members, or none may corrupt, or no
                threshold exists that this many members can both reach and defend.
        """
        least = _least(clients, corrupt, min_cohort)
        if clients > COMPLETE_GRAPH_MAX:
            raise InfeasibleCohortError(
                f"a cohort of {clients} members needs the ring: on the complete graph are at most "
                f"{COMPLETE_GRAPH_MAX}"
            )
        neighbours = clients - 1
        threshold = (neighbours + corrupt) // 2 + 1
        quorum = (clients + corrupt) // 2 + 1
        floor = _bearable(clients, corrupt, max(threshold + 1, quorum, least, survivors_min))
        return cls(clients, corrupt, neighbours, threshold, quorum, floor, clients - floor)

    @classmethod
    def ring(
        cls,
        clients: int,
        corrupt: int,
        *,
        min_cohort: int,
        survivors_min: int = 0,
        losses: int | None = None,
    ) -> Params:
        """Work out k, t, q and the survivors' floor on the ring.

        Whoever names D decides how many may be gone, and nothing about who can be opened: k and t are
        safe for every D.

        Args:
            losses: D; None for a tenth, or as many as the floors leave if these are fewer.

        Raises:
            InfeasibleCohortError: Too few or too many members, or none may corrupt; more losses than the
                floors leave; or no ring up to `degree.NEIGHBOURS_MAX` neighbours will do.
        """
        least = _least(clients, corrupt, min_cohort)
        if not COMPLETE_GRAPH_MAX < clients <= COHORT_MAX:
            raise InfeasibleCohortError(
                f"a cohort of {clients} members: at most {COHORT_MAX} sites may take part, and a ring has "
                f"more than {COMPLETE_GRAPH_MAX}",
                hint="Revoke sites that do not take part, or make two federations.",
            )
        quorum = (clients + corrupt) // 2 + 1
        floor = _bearable(clients, corrupt, max(quorum, least, survivors_min))
        most = clients - floor
        chosen = min(clients // _LOSSES_SHARE, most) if losses is None else losses
        if not 0 <= chosen <= most:
            raise InfeasibleCohortError(
                f"{clients} members keep {floor} survivors: {most} may be lost at most, not {chosen}"
            )
        found = degree(clients, corrupt, chosen)
        floor = max(floor, found.threshold + 1)
        return cls(clients, corrupt, found.neighbours, found.threshold, quorum, floor, chosen)

    @property
    def on_ring(self) -> bool:
        """Whether members mask with k neighbours on the ring, not with everybody."""
        return self.clients > COMPLETE_GRAPH_MAX

    def in_words(self) -> str:
        """One sentence for a person who is about to start a job."""
        lost = f"{self.losses} may" if self.losses else "none may"
        ring = ""
        if self.on_ring:
            ring = (
                f"each masks with {self.neighbours} neighbours that nobody chose, of whom at most "
                f"{corrupt_near(self.clients, self.corrupt, self.neighbours)} are such; "
            )
        return (
            f"{self.clients} sites: any {self.corrupt} may collude with the aggregator; {ring}"
            f"{self.threshold} shares open a secret, {self.quorum} signatures certify the survivors, "
            f"{lost} be lost in an attempt"
        )


def corrupt_near(clients: int, corrupt: int, neighbours: int) -> int:
    """How many of a member's neighbours may be corrupt, if so many of the roster are.

    All of them on the complete graph; x - 1 on the ring, where more are there but for 2^-82.
    """
    return corrupt if clients <= COMPLETE_GRAPH_MAX else corrupt_among(clients, corrupt, neighbours)


def _least(clients: int, corrupt: int, min_cohort: int) -> int:
    """The floor under every cohort."""
    least = max(COHORT_MIN, min_cohort)
    if clients < least:
        raise InfeasibleCohortError(
            f"a cohort of {clients} is below the floor of {least} members",
            hint="Wait for more sites: below the floor a sum would show too much about each.",
        )
    if corrupt < 1:
        raise InfeasibleCohortError("the roster must tolerate at least one corrupt member")
    return least


def _bearable(clients: int, corrupt: int, floor: int) -> int:
    """The survivors' floor, which the cohort can reach."""
    if floor > clients:
        raise InfeasibleCohortError(
            f"{clients} members cannot defend themselves against {corrupt} corrupt ones "
            f"and keep {floor} survivors"
        )
    return floor

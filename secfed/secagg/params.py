"""The numbers of one attempt, computed by every party from n, A and the floors; never received.

2t > k + A keeps an aggregator that owns A members from opening both secrets of one client,
and 2q > n + A keeps two different survivor sets from both being certified.
"""

from __future__ import annotations

from dataclasses import dataclass

from secfed.errors import InfeasibleCohortError

__all__ = ["COHORT_MIN", "COMPLETE_GRAPH_MAX", "Params"]

COHORT_MIN = 3
"""With two members each could read the other's vector off the sum."""

COMPLETE_GRAPH_MAX = 128
"""Largest cohort in which everybody masks with everybody; the ring graph for more is not built."""


@dataclass(frozen=True, slots=True)
class Params:
    """Thresholds of one attempt on the complete graph.

    Attributes:
        clients: n, members of the frozen cohort.
        corrupt: A, members of the whole roster that may collude with the aggregator.
        neighbours: k = n - 1.
        threshold: t, shares that open a secret.
        quorum: q, signatures that make a survivor set valid.
        floor: Fewest survivors that a client confirms.
        losses: D, members that may be lost at any point without losing the attempt.
    """

    clients: int
    corrupt: int
    neighbours: int
    threshold: int
    quorum: int
    floor: int
    losses: int

    @classmethod
    def complete(cls, clients: int, corrupt: int, *, min_cohort: int, survivors_min: int = 0) -> Params:
        """Work out t, q, D and the survivors' floor.

        Raises:
            InfeasibleCohortError: Too few or too many members, or none may corrupt, or no
                threshold exists that this many members can both reach and defend.
        """
        least = max(COHORT_MIN, min_cohort)
        if clients < least:
            raise InfeasibleCohortError(
                f"a cohort of {clients} is below the floor of {least} members",
                hint="Wait for more sites: below the floor a sum would show too much about each.",
            )
        if clients > COMPLETE_GRAPH_MAX:
            raise InfeasibleCohortError(
                f"a cohort of {clients} members needs the ring graph, which is not built: "
                f"at most {COMPLETE_GRAPH_MAX} sites may take part",
                hint="Revoke sites that do not take part, or make two federations.",
            )
        if corrupt < 1:
            raise InfeasibleCohortError("the roster must tolerate at least one corrupt member")
        neighbours = clients - 1
        threshold = (neighbours + corrupt) // 2 + 1
        quorum = (clients + corrupt) // 2 + 1
        floor = max(threshold + 1, quorum, least, survivors_min)
        losses = clients - floor
        if losses < 0:
            raise InfeasibleCohortError(
                f"{clients} members cannot defend themselves against {corrupt} corrupt ones "
                f"and keep {floor} survivors"
            )
        return cls(clients, corrupt, neighbours, threshold, quorum, floor, losses)

    def in_words(self) -> str:
        """One sentence for a person who is about to start a job."""
        lost = f"{self.losses} may" if self.losses else "none may"
        return (
            f"{self.clients} sites: any {self.corrupt} may collude with the aggregator; "
            f"{self.threshold} shares open a secret, {self.quorum} signatures certify the survivors, "
            f"{lost} be lost in an attempt"
        )

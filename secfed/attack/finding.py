"""How an attack ended: the verdict, and the facts that it rests on.

BROKEN is said of what the adversary holds in the end (a sum over fewer honest vectors than
promised, two certificates over different sets, one vector in two sums), never of the absence
of an error; DEFENDED of an attack that was carried to its end and holds none of that.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

__all__ = ["Evidence", "Finding", "Verdict"]


class Verdict(Enum):
    """The value is what people read."""

    DEFENDED = "DEFENDED"
    BROKEN = "BROKEN"
    NOT_BUILT = "NOT BUILT"


@dataclass(frozen=True, slots=True)
class Finding:
    """One attack's end.

    Attributes:
        evidence: What was seen, a line each: which call, what the victim answered, what is held.
    """

    verdict: Verdict
    evidence: tuple[str, ...]


@dataclass(slots=True)
class Evidence:
    """Gathers facts while an attack runs; the verdict follows from what was gained."""

    facts: list[str] = field(default_factory=list)
    gains: list[str] = field(default_factory=list)

    def saw(self, fact: str) -> None:
        """One fact, whatever it means."""
        self.facts.append(fact)

    def gained(self, what: str) -> None:
        """The adversary holds something that it must not hold."""
        self.gains.append(what)

    @property
    def finding(self) -> Finding:
        """BROKEN if anything was gained, else DEFENDED."""
        verdict = Verdict.BROKEN if self.gains else Verdict.DEFENDED
        return Finding(verdict, (*self.facts, *(f"the adversary holds {gain}" for gain in self.gains)))

"""How an attack ended, part by part: the verdict, and the facts that it rests on.

An attack tries one or more things, its parts, which the catalogue names beforehand. Each part
ends with what the adversary holds after it, or with nothing. BROKEN is said of what it holds (a
sum over fewer honest vectors than promised, two certificates over different sets, a client that
gave its word to what it must refuse), never of the absence of an error; DEFENDED of parts that were
all carried to their end and hold none of that.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from secfed.errors import ConfigError

__all__ = ["Evidence", "Finding", "Part", "Report", "Verdict"]


class Verdict(Enum):
    """The value is what people read."""

    DEFENDED = "DEFENDED"
    BROKEN = "BROKEN"
    NOT_BUILT = "NOT BUILT"


@dataclass(frozen=True, slots=True)
class Part:
    """One part's end.

    Attributes:
        facts: What was seen, a line each: which call, what the victim answered.
        gains: What the adversary holds and must not hold.
    """

    name: str
    verdict: Verdict
    facts: tuple[str, ...]
    gains: tuple[str, ...]

    @property
    def evidence(self) -> tuple[str, ...]:
        """A line of verdict, and all that it rests on."""
        facts = (*self.facts, *(f"the adversary holds {gain}" for gain in self.gains))
        return (f"{self.verdict.value:<10} {self.name}", *(f"  {fact}" for fact in facts))


@dataclass(frozen=True, slots=True)
class Finding:
    """One attack's end.

    Attributes:
        setting: What holds for all parts: who plays whom.
    """

    verdict: Verdict
    setting: tuple[str, ...]
    parts: tuple[Part, ...]

    @property
    def evidence(self) -> tuple[str, ...]:
        """The setting, and each part with its facts, a line each."""
        return (*self.setting, *(line for part in self.parts for line in part.evidence))


@dataclass(slots=True)
class Evidence:
    """Gathers the facts of one part while it runs."""

    facts: list[str] = field(default_factory=list)
    gains: list[str] = field(default_factory=list)

    def saw(self, fact: str) -> None:
        """One fact, whatever it means."""
        self.facts.append(fact)

    def gained(self, what: str) -> None:
        """The adversary holds something that it must not hold."""
        self.gains.append(what)


class Report:
    """Gathers the parts of one attack; what is gained is gained by one of them.

    Args:
        names: The parts that there are to be.
        held: What a part is called that gained nothing.
    """

    def __init__(self, names: tuple[str, ...], held: Verdict = Verdict.DEFENDED) -> None:
        self._names, self._held = names, held
        self._setting: list[str] = []
        self._parts: dict[str, Evidence] = {}

    def saw(self, fact: str) -> None:
        """One fact that belongs to no part alone."""
        self._setting.append(fact)

    def part(self, name: str) -> Evidence:
        """What a part enters its facts into; the same one for the same name.

        Raises:
            ValueError: The catalogue has no such part.
        """
        if name not in self._names:
            raise ValueError(f"an attack of the parts {self._names} has no part {name!r}")
        return self._parts.setdefault(name, Evidence())

    @property
    def gained(self) -> bool:
        """Whether some part gained something by now."""
        return any(part.gains for part in self._parts.values())

    @property
    def finding(self) -> Finding:
        """BROKEN if anything was gained.

        Raises:
            ConfigError: A part saw nothing, so it was not carried out, and no other gained anything.
        """
        idle = [name for name in self._names if name not in self._parts or not self._parts[name].facts]
        if idle and not self.gained:
            raise ConfigError(
                f"these parts were not carried out: {', '.join(idle)}",
                hint="Some parts need Linux, and real processes.",
            )
        parts = tuple(self._part(name, self._parts[name]) for name in self._names if name not in idle)
        broken = any(part.gains for part in parts)
        return Finding(Verdict.BROKEN if broken else self._held, tuple(self._setting), parts)

    def _part(self, name: str, evidence: Evidence) -> Part:
        verdict = Verdict.BROKEN if evidence.gains else self._held
        return Part(name, verdict, tuple(evidence.facts), tuple(evidence.gains))

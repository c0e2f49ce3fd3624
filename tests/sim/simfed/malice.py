"""How a hostile aggregator plays under one seed."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Malice:
    """Its temper: probabilities for each thing that it tells.

    Attributes:
        replay: It tells something that was told before, to anybody.
        bend: It bends what it tells.
        forge: It signs a manifest with a wrong field.
        hurry: It goes on with what there is, without those who have not answered yet.
        restless: It begins another attempt though one is live.
        second: It calls a site away into another attempt when its vector is already out.
        twin: Another attempt has the same number.
        lie: It tells how a round ended, though it did not.
        onward: It offers the next round.
    """

    replay: float = 0.0
    bend: float = 0.0
    forge: float = 0.0
    hurry: float = 0.0
    restless: float = 0.0
    second: float = 0.0
    twin: float = 0.0
    lie: float = 0.0
    onward: float = 0.0

    @classmethod
    def of(cls, random: Random) -> Malice:
        """Each seed has a temper of its own."""
        most = cls(0.02, 0.03, 0.2, 0.02, 0.01, 0.05, 0.5, 0.01, 0.003)
        return cls(
            **{
                name: random.choice((0.0, 0.0, 0.3, 1.0)) * getattr(most, name)
                for name in cls.__dataclass_fields__
            }
        )

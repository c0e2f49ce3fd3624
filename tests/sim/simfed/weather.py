"""What goes wrong by itself: how often, in which mixture, and what it does to bytes on their way."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Weather:
    """How often things go wrong: probabilities for each message, write and step.

    Attributes:
        lose: A message is lost, before or after it took effect on the other side.
        repeat: It is heard twice.
        replay: A message of before is heard too: of anybody, from any earlier attempt or round.
        late: It is held back, and heard after others that were said later.
        damage: It is cut, or one of its bits is flipped.
        kill_client, kill_aggregator: A process dies between two steps.
        crash: It dies at a durable write, before or after the effect.
        fail: The disk refuses a durable write, before or after the effect.
        clock: A site's clock is set to another time of the year.
    """

    lose: float = 0.0
    repeat: float = 0.0
    replay: float = 0.0
    late: float = 0.0
    damage: float = 0.0
    kill_client: float = 0.0
    kill_aggregator: float = 0.0
    crash: float = 0.0
    fail: float = 0.0
    clock: float = 0.0

    @classmethod
    def of(cls, random: Random) -> Weather:
        """Some kinds of trouble, each mild or strong; a third of the seeds know only a single kind."""
        scale = {name: random.choice((0.0, 0.3, 1.0)) for name in cls.__dataclass_fields__}
        if random.random() < 1 / 3:
            only = random.choice(sorted(scale))
            scale = {name: float(name == only) for name in scale}
        return cls(**{name: factor * getattr(_MOST, name) for name, factor in scale.items()})


CALM = Weather()

_MOST = Weather(0.05, 0.05, 0.03, 0.03, 0.02, 0.01, 0.004, 0.02, 0.01, 0.002)
"""The worst of each kind in which a round still ends now and then."""


def damaged(random: Random, data: bytes) -> bytes:
    """Cut, or with one bit flipped. TLS would notice; the parser must too, or take it as signed."""
    place = random.randrange(len(data) + 1)
    if random.random() < 0.5 or place == len(data):
        return data[:place]
    flipped = bytes([data[place] ^ 1 << random.randrange(8)])
    return data[:place] + flipped + data[place + 1 :]

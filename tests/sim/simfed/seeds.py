"""What one seed is: which adversary, which trouble, and the course that follows from both.

Of four seeds one has an honest federation in bad weather and before a hostile network (which loses,
delays, repeats, replays and damages whatever it carries, and has nobody's key), one has corrupt clients
beside an honest aggregator as well, and two have a hostile aggregator with corrupt clients of its own.
In one of four federations of each kind the roster changes on the way, and in one of five with an honest
aggregator an admin pauses the job, lets it go on, and stops it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from simfed.hostile import HostileFederation
from simfed.simulation import Simulation

REPLAY = "python -m pytest -s tests/sim/test_simulation.py::test_replay_of_one_seed --seed"
"""The command that plays a seed again and prints all that happens, before the seed's number."""

_UNWILLING = 10
"""Of so many honest federations one has a site whose policy refuses the job."""

_RULED = 5
"""Of so many federations with an honest aggregator one has an admin who interferes."""

_CHANGING = 4
"""Of so many federations of each kind one has a roster that changes."""


def federation(seed: int, directory: Path) -> Simulation | HostileFederation:
    """The federation of a seed, before its first step."""
    turn, kind = divmod(seed, 4)
    changing = turn % _CHANGING == 2
    if kind >= 2:
        return HostileFederation(seed, directory, changing=changing)
    unwilling = kind == 0 and turn % _UNWILLING == 1
    ruled = turn % _RULED == 3
    return Simulation(seed, directory, liars=kind, unwilling=unwilling, changing=changing, ruled=ruled)


def run(seed: int, directory: Path, *, whole: bool = False) -> Simulation | HostileFederation:
    """Play one seed; whatever breaks comes with the seed, the command and the end of the trace.

    Args:
        whole: Print all of the trace, whether it breaks or not.
    """
    place = directory / f"seed-{seed}"
    place.mkdir()
    played = federation(seed, place)
    try:
        played.run()
    except Exception as error:
        tail = "\n".join(played.trace[-60:])
        raise AssertionError(f"{type(error).__name__} {error}\n{tail}\nreplay: {REPLAY} {seed}") from error
    finally:
        if whole:
            print("\n".join(played.trace))
        shutil.rmtree(place)  # a long run would fill the memory that holds these disks
    return played

"""A site whose disk is set back: it counts among the A, and takes nothing from anybody else.

It runs the unchanged program with less memory than it had: a copy of its directory is taken at one moment
and comes back at another, with its keys, ledger and decisions, as after a restored backup.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random

from simfed.liar import Liar
from simfed.line import Line
from simfed.nodes import ClientNode
from simfed.simulation import Simulation

from secfed.rounds.client import Upload
from secfed.rounds.exchange import Said

SEEDS = 10


class SetBack(Liar):
    """Says what the program says, and now and then takes the disk back to where it was."""

    def __init__(self, line: Line, random: Random) -> None:
        self._line, self._dice = line, random
        self.times = 0

    def bend(self, node: ClientNode, saying: Said | Upload) -> Said | Upload | None:
        copy = node.directory.with_name(f"{node.name}-backup")
        if not copy.exists():
            if self._dice.random() < 0.2:
                shutil.copytree(node.directory, copy)
            return saying
        if self._dice.random() > 0.1:
            return saying
        self._line.note(f"{node.name}: set back")
        self._line.kill(node)
        shutil.rmtree(node.directory)
        copy.rename(node.directory)
        self.times += 1
        return None


def test_a_site_that_was_set_back_takes_nothing_from_the_others(disk: Path) -> None:
    """Every invariant holds for all others, in trouble as in calm, and every sum is exact."""
    times = published = with_it = 0
    for seed in range(SEEDS):
        (disk / str(seed)).mkdir()
        simulation = Simulation(seed, disk / str(seed), clients=5, rounds=2, liars=1, constant=False)
        (site,) = simulation.witness.owned
        simulation.line.liar = liar = SetBack(simulation.line, Random(seed))
        try:
            endings = simulation.run()
        except AssertionError as broken:
            tail = "\n".join(simulation.trace[-60:])
            raise AssertionError(f"seed {seed}: {broken}\n{tail}") from broken
        times += liar.times
        published += sum(ending.published for ending in endings)
        with_it += sum(site in ending.included for ending in endings if liar.times)
        shutil.rmtree(disk / str(seed))
    assert min(times, published, with_it) > SEEDS / 4

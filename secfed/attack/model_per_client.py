"""A different model per client: one member trains on a model of its own, and only it contributes.

A base adapter can be made so that training on it changes nothing. Whoever gives such a base to
all members but one reads that one's update off the sum. So the adversary signs two round plans
with two bases, and two manifests, each in order by itself.

Source: Pasquini, Francati, Ateniese 2022, "Eluding Secure Aggregation in Federated Learning via
Model Inconsistency" (arXiv:2111.07380).
"""

from __future__ import annotations

import numpy as np
from safetensors.numpy import save

from secfed.attack.arena import Arena
from secfed.attack.course import Course, told_of
from secfed.attack.finding import Evidence, Report
from secfed.attack.hostile import Received
from secfed.attack.loot import openable
from secfed.attack.venue import Venue
from secfed.crypto.kdf import digest
from secfed.crypto.labels import Label
from secfed.ids import Digest
from secfed.rounds.exchange import Answer
from secfed.secagg.manifest import manifest_context
from secfed.secagg.messages import OpenAttempt, Phase

__all__ = ["run"]

_COORDINATES = 2
"""Where a contribution's coordinates begin, after its weight and its one counter."""


def run(venue: Venue, report: Report) -> None:
    """One base for the first member, another for the rest."""
    evidence = report.part("two models in one round")
    with venue.arena(training=True) as arena:
        arena.begin(report)
        job = arena.job()
        live, dead = (_publish(arena, value) for value in (1.0, 0.0))
        own, common = arena.round(job, base=live), arena.round(job, base=dead)
        target, *others = arena.honest
        arena.make_ready(job, own, [target])
        arena.make_ready(job, common, others)
        evidence.saw(f"{target} is ready for one model, {', '.join(others)} for another, in one round")
        course = Course(arena, job, common)
        apart = Course(arena, job, own).manifest
        manifest = OpenAttempt(course.sign(Label.SIGN_MANIFEST, apart, context=manifest_context(apart)))
        for phase in (each for each in Phase if each is not Phase.DONE):
            asked = course.relayed(phase)
            if phase is Phase.ADVERTISE:
                asked[course.victims[0]] = manifest
            heard = course.ask(asked)
            honest = {site: said for site, said in heard.items() if site in arena.honest}
            evidence.saw(told_of(f"{phase.value}, each under its own manifest", honest))
            if not all(isinstance(said, Answer | Received) for said in heard.values()):
                break
        _judge(evidence, course)


def _publish(arena: Arena, value: float) -> Digest:
    """Let a base of this value everywhere be downloaded; the digest by which it is known."""
    shapes = arena.job().plan.shapes
    data = save({name: np.full(shape, value, np.float32) for name, shape in shapes.items()})
    known = digest(Label.ADAPTER, data)
    arena.hostile.files[known] = data
    return known


def _judge(evidence: Evidence, course: Course) -> None:
    """An opened sum over members that were given different models."""
    arena, target = course.arena, course.arena.honest[0]
    found = [each for each in openable(course) if target in each.honest and len(each.honest) > 1]
    for each in found:
        others = len(each.honest) - 1
        rest = (each.words.astype(np.int64) - arena.words([target]))[_COORDINATES:]
        nothing = others * (arena.grid.levels // 2)  # zero lies between two steps, and is rounded at random
        if np.all((rest >= nothing) & (rest <= nothing + others)):
            evidence.gained(f"the update of {target}: the model of the {others} others let them add nothing")
        elif each.true:
            evidence.gained(f"a sum of {len(each.honest)} updates that were made on two different models")
    if not found:
        evidence.saw("opened: nothing")

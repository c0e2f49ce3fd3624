"""From an opened ring sum to a result on disk: decode, check, apply, write, once and for good.

`form` runs beside the rounds' core, touches none of its state, and can be repeated: a result is
named by its digest. `write_folder` follows once the round's end is a durable fact: the folder
appears whole, under its name, or not at all, and one that is there stays as it is.
"""

from __future__ import annotations

import base64
import hashlib
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secfed import __version__
from secfed.aggregation import folder, initial, registry
from secfed.aggregation.spec import AdapterSpec
from secfed.aggregation.strategy import HEAD_BIAS, HEAD_WEIGHT, POINT
from secfed.crypto.labels import Label
from secfed.encoding.contribution import contribution_words, decode_contribution_sum
from secfed.encoding.fixedpoint import FixedPoint
from secfed.encoding.layout import Layout
from secfed.errors import ConfigError, LostUploadError, RoundAbortedError, StorageError
from secfed.identity.signed import Signed
from secfed.ids import NO_DIGEST, ClientId, Digest
from secfed.limits import ADAPTER_MAX
from secfed.privacy import events
from secfed.rounds.charge import dp_event
from secfed.rounds.house import House
from secfed.rounds.jobs import Ending, Job
from secfed.rounds.plan import JobPlan, TrainSpec
from secfed.rounds.proposal import COUNTERS, RoundProposal
from secfed.secagg.aggregator import AggregatorSession
from secfed.secagg.opening import RingSum
from secfed.store import jsontext
from secfed.store.adapters import Tiled
from secfed.store.files import make_directory, storage_errors, sync_directory
from secfed.store.jsontext import Json

__all__ = [
    "MANIFEST_FILE", "SIGNATURE_FILE", "SUM_FILE", "Facts", "Formed", "base_of", "check_plan",
    "epsilon_by_plan", "form", "round_folder", "write_folder",
]  # fmt: skip

MANIFEST_FILE = "secfed_manifest.json"
SIGNATURE_FILE = "secfed_manifest.json.sig"
SUM_FILE = "sum.safetensors"

_HEAD_WORDS = contribution_words(0, COUNTERS)
"""Weight and counters, before the coordinates."""

_TILE_WORDS = 1 << 16
"""Coordinates decoded at once: half a MiB of float64."""

_README = """\
The weighted sum, and the mean, of the vectors of the sites that secfed_manifest.json lists.
sum.safetensors holds `weighted_sum.NAME` and `mean.NAME` for every array, as float64.
"""


@dataclass(frozen=True, slots=True)
class Formed:
    """A result in the store, not yet published.

    Attributes:
        sum: Digest of the opened ring sum.
        transcript: What the next manifest names as its predecessor.
        result: Digest of the new adapter, or of the sum's file.
        weight_sum: The sum of the weights.
        saturated: Coordinates that were clamped to the bound, in all.
    """

    sum: Digest
    transcript: Digest
    result: Digest
    weight_sum: int
    saturated: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What a round's folder says; all of it durable.

    Attributes:
        manifest: The attempt's signed manifest.
        signatures: The survivors' signatures on transcript and survivor list, by site.
    """

    job: Job
    proposal: RoundProposal
    ending: Ending
    manifest: Signed
    signatures: tuple[tuple[ClientId, bytes], ...]


def round_folder(output: Path, job: str, number: int) -> Path:
    """Where a round's result lies."""
    return output / job / f"round-{number:04}"


def check_plan(plan: JobPlan) -> None:
    """Refuse, before a job starts, a plan whose first adapter or whose result could not be formed.

    Raises:
        ConfigError, EncodingError: The adapter, its labels, its strategy and the shapes do not fit together,
            or it is too large.
    """
    FixedPoint(float(plan.bound), plan.bits)
    spec = plan.training
    if spec is None:
        return
    _adapter_spec(spec)
    _check_adapter(spec)
    if registry.by_name(spec.strategy).wire_shapes(spec.adapter) != plan.shapes:
        raise ConfigError(
            f"the shapes of job {plan.job} are not what strategy {spec.strategy} sends of its adapter",
            hint="Write the plan with `secfed job start`, which works them out.",
        )


def _check_adapter(spec: TrainSpec) -> None:
    """The whole adapter, also what no contribution carries: a shape for each array, and a size for all."""
    size = Layout.from_shapes(spec.adapter).size
    if size > ADAPTER_MAX:
        raise ConfigError(
            f"the adapter has {size} numbers, frozen arrays included; {ADAPTER_MAX} are allowed",
            hint="Adapt fewer modules, or choose a smaller rank.",
        )
    for name, shape in spec.adapter.items():
        expected = 1 if name in (HEAD_BIAS, POINT) else 2
        if len(shape) != expected:
            raise ConfigError(f"{name!r} has {len(shape)} dimensions, an array of its kind has {expected}")
    rows = {name: spec.adapter[name][0] for name in (HEAD_WEIGHT, HEAD_BIAS) if name in spec.adapter}
    if rows != ({HEAD_WEIGHT: len(spec.labels), HEAD_BIAS: len(spec.labels)} if spec.labels else {}):
        raise ConfigError(f"the head has rows {rows}, but the plan has {len(spec.labels)} labels")


def base_of(house: House, job: Job) -> Digest:
    """The adapter that the next round's updates are relative to, put into the store if it is the first.

    A vector job has none.
    """
    if job.plan.training is None:
        return NO_DIGEST
    if job.last_published is not None:
        return job.last_published.result
    spec = job.plan.training
    arrays = initial.initial_adapter(spec.adapter, bytes.fromhex(spec.seed))
    return house.adapters.put(arrays, {"job": job.id, "round": 0})


def form(house: House, session: AggregatorSession, job: Job, proposal: RoundProposal) -> Formed:
    """Open the sum of a finished attempt and put its result into the store.

    Raises:
        RoundAbortedError, PeerError, EncodingError: Nothing may be published; the round is over.
        StorageError: The disk refuses it; a restart goes on from here.
    """
    ring_sum = _open_sum(house, session)
    ended, words, count = (ring_sum.digest, ring_sum.transcript), ring_sum.total, len(ring_sum.survivors)
    del ring_sum  # at full length every vector counts
    plan = job.plan
    fixed = FixedPoint(float(plan.bound), plan.bits)
    head = decode_contribution_sum(words[:_HEAD_WORDS], count, COUNTERS, fixed)
    weight_sum, saturated = head.weight_sum, head.counters[0]
    if not 1 <= weight_sum <= count * plan.weight_cap:
        raise RoundAbortedError(
            f"the sum's weight {weight_sum} is not between 1 and {count} times {plan.weight_cap}"
        )
    if plan.training is None:
        result = _store_sum(house, job, proposal, _VectorSum(words[_HEAD_WORDS:], count, weight_sum, fixed))
    else:
        total = decode_contribution_sum(words, count, COUNTERS, fixed)
        del words
        mean = plan.layout.unflatten(total.mean(out=total.weighted_sum))
        del total
        result = _store_adapter(house, job, proposal, mean, plan.training)
    return Formed(*ended, result, weight_sum, saturated)


def _open_sum(house: House, session: AggregatorSession) -> RingSum:
    try:
        return session.sum_up(threads=house.threads)
    except LostUploadError as error:  # any other failure of the disk may pass: a restart tries again
        raise RoundAbortedError("a masked vector that was acknowledged cannot be read back") from error


# -- results -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _VectorSum:
    """A vector job's sum, decoded a tile at a time: its file is four times as long as the words.

    Attributes:
        words: Shape (d,), the coordinates' sums as integers of the grid.
    """

    words: NDArray[np.uint32] = field(repr=False)
    count: int
    weight_sum: int
    fixed: FixedPoint

    def arrays(self, layout: Layout) -> dict[str, Tiled]:
        """All that is published, by name."""
        found, offset = {}, 0
        for name, shape in zip(layout.names, layout.shapes, strict=True):
            part = self.words[offset : offset + math.prod(shape)]
            found[f"weighted_sum.{name}"] = Tiled(shape, partial(self._weighted, part))
            found[f"mean.{name}"] = Tiled(shape, partial(self._mean, part))
            offset += part.size
        return found

    def _weighted(self, part: NDArray[np.uint32]) -> Iterator[NDArray[np.float64]]:
        for start in range(0, part.size, _TILE_WORDS):
            yield self.fixed.decode_sum(part[start : start + _TILE_WORDS], self.count)

    def _mean(self, part: NDArray[np.uint32]) -> Iterator[NDArray[np.float64]]:
        for tile in self._weighted(part):
            yield np.divide(tile, self.weight_sum, out=tile)


def _store_sum(house: House, job: Job, proposal: RoundProposal, total: _VectorSum) -> Digest:
    metadata: dict[str, Json] = {
        "job": job.id,
        "round": proposal.plan.round,
        "count": total.count,
        "weight_sum": total.weight_sum,
    }
    return house.adapters.put_tiled(total.arrays(job.plan.layout), metadata)


def _store_adapter(
    house: House,
    job: Job,
    proposal: RoundProposal,
    mean: dict[str, NDArray[np.float32]],
    spec: TrainSpec,
) -> Digest:
    base = house.adapters.get(proposal.base)
    adapter = registry.by_name(spec.strategy).apply(base, mean)
    return house.adapters.put(adapter, {"job": job.id, "round": proposal.plan.round})


# -- the folder --------------------------------------------------------------------------------


def write_folder(house: House, facts: Facts) -> None:
    """Build a published round's folder beside its place, sync it, and move it there.

    Raises:
        StorageError: The disk refuses it, or another result is there.
    """
    final = round_folder(house.output, facts.job.id, facts.proposal.plan.round)
    if final.exists():
        _check_same(final, facts.ending.result)
        return
    make_directory(final.parent)
    draft = final.with_name(f".{final.name}.new")
    with storage_errors(draft):
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o755)
        _write_result(house, facts, draft)
        text = jsontext.pretty(_manifest(facts, _file_digests(draft)))
        (draft / MANIFEST_FILE).write_bytes(text)
        signature = house.sign(Label.SIGN_MANIFEST_FILE, text, context=facts.ending.h).signature
        (draft / SIGNATURE_FILE).write_text(_base64(signature) + "\n", encoding="ascii")
        for path in draft.iterdir():
            _sync(path)
    sync_directory(draft)
    with storage_errors(final):
        draft.rename(final)
    sync_directory(final.parent)


def _write_result(house: House, facts: Facts, draft: Path) -> None:
    plan, spec = facts.job.plan, facts.job.plan.training
    if spec is None:
        house.adapters.copy(facts.ending.result, draft / SUM_FILE)
        (draft / "README.txt").write_text(_README, encoding="utf-8")
        return
    arrays = house.adapters.get(facts.ending.result)
    folder.write(draft, _adapter_spec(spec), arrays, notes=_notes(plan, facts))


def _adapter_spec(spec: TrainSpec) -> AdapterSpec:
    return AdapterSpec(
        base_model=spec.base.id,
        revision=spec.base.revision,
        trainer=spec.trainer,
        target_modules=spec.lora.target_modules,
        r=spec.lora.r,
        alpha=spec.lora.alpha,
        labels=spec.labels,
    )


def _notes(plan: JobPlan, facts: Facts) -> list[tuple[str, str]]:
    """Rows of the model card."""
    number = facts.proposal.plan.round
    rows = [
        ("round", f"{number} of {plan.rounds}"),
        ("sites in the sum", str(len(facts.ending.included))),
        ("strategy", plan.training.strategy if plan.training else ""),
    ]
    if plan.dp is None:
        return [*rows, ("differential privacy", "none")]
    epsilon = epsilon_by_plan(plan, number) or "see `secfed report`"
    return [
        *rows,
        (
            "differential privacy",
            f"epsilon {epsilon} after this round, by the plan, at delta {plan.dp.delta}",
        ),
        ("privacy unit", f"{plan.dp.unit}, relation {plan.dp.relation}"),
    ]


def epsilon_by_plan(plan: JobPlan, number: int) -> str:
    """What the plan says was spent after this round; empty where it says nothing."""
    return plan.epsilon_by_round[number - 1] if number <= len(plan.epsilon_by_round) else ""


def _manifest(facts: Facts, files: Mapping[str, str]) -> dict[str, Json]:
    """What is said of the round to whoever gets the folder."""
    plan, ending = facts.job.plan, facts.ending
    event = dp_event(plan)
    return {
        "kind": "secfed-round",
        "format": 1,
        "version": __version__,
        "job": facts.job.id,
        "round": facts.proposal.plan.round,
        "attempt": ending.attempt,
        "attempt_digest": ending.h.hex(),
        "job_plan": facts.job.proposal.digest.hex(),
        "round_plan": facts.proposal.digest.hex(),
        "manifest": {
            "statement": _base64(facts.manifest.statement),
            "signature": _base64(facts.manifest.signature),
        },
        "included": list(ending.included),
        "dropped": [{"site": site, "reason": reason} for site, reason in ending.dropped],
        "lost_after_freeze": [{"site": site, "reason": reason} for site, reason in ending.lost],
        "count": len(ending.included),
        "weight_sum": ending.weight_sum,
        "saturated_coordinates": ending.saturated,
        "base": facts.proposal.base.hex(),
        "result": ending.result.hex(),
        "sum": ending.sum.hex(),
        "transcript": ending.transcript.hex(),
        "survivors_signatures": [
            {"site": site, "signature": _base64(signature)} for site, signature in facts.signatures
        ],
        "privacy": None
        if plan.dp is None or event is None
        else _privacy(plan, facts.proposal.plan.round, event),
        "base_model": None if plan.training is None else _base_model(plan.training),
        "files": dict(files),
    }


def _privacy(plan: JobPlan, number: int, event: events.PoissonGaussian) -> dict[str, Json]:
    charged = {name: _json(value) for name, value in events.to_json(event).items()}
    dp: dict[str, Json] = {} if plan.dp is None else plan.dp.model_dump(mode="json")
    return {
        "mode": plan.mode,
        "parameters": dp,
        "event_charged_by_every_included_site": charged,
        "epsilon_by_plan": epsilon_by_plan(plan, number),
        "epsilon_from": "the signed job plan; `secfed report` recomputes it from the events",
    }


def _base_model(spec: TrainSpec) -> dict[str, Json]:
    return spec.base.model_dump(mode="json")


def _json(value: object) -> Json:
    return value if isinstance(value, bool | int | str) or value is None else str(value)


def _file_digests(directory: Path) -> dict[str, str]:
    found = {}
    for path in _sorted(directory):
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _sorted(directory: Path) -> Sequence[Path]:
    return sorted(directory.iterdir(), key=lambda path: path.name)


def _check_same(final: Path, result: Digest) -> None:
    """What was published stands; it must be this very result."""
    with storage_errors(final):
        found: Any = jsontext.parse((final / MANIFEST_FILE).read_bytes())
    if not isinstance(found, Mapping) or found.get("result") != result.hex():
        raise StorageError(
            f"{final} holds another result than this round's", hint="Move the folder away and start again."
        )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")

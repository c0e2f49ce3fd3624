"""The Strategy protocol: what of an adapter is trained and sent, and what the mean is used for.

A strategy fits under a secure sum only if it factors as contribution (each client) -> sum ->
apply (aggregator): nothing may look at one client's arrays alone. Clients send the *difference*
to the broadcast adapter, not the adapter: its range is small and known, and a client that drops
out takes nothing with it.

An adapter here is every array of the PEFT state dict by its PEFT name (`....lora_A.weight`,
`....lora_B.weight`), and for `classify` also `head.weight` and `head.bias`. Under `kto` a reference
point may ride along as `kto_point.value`: it is part of what is trained, noised, summed and broadcast,
and of no adapter that is published.

Source: linear aggregation under secure sums, Bonawitz et al. 2017; FedAvg, McMahan et al. 2017.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secfed.errors import EncodingError

__all__ = [
    "HEAD_BIAS",
    "HEAD_WEIGHT",
    "POINT",
    "DeltaStrategy",
    "NamedArrays",
    "Schema",
    "Strategy",
    "is_frozen_half",
    "is_known",
]

NamedArrays: TypeAlias = Mapping[str, NDArray[np.float32]]
"""Arrays by PEFT name, float32."""

Schema: TypeAlias = Mapping[str, tuple[int, ...]]
"""Shapes by PEFT name."""

HEAD_WEIGHT = "head.weight"
"""Weight of a classification head, shape (labels, hidden)."""

HEAD_BIAS = "head.bias"
"""Bias of a classification head, shape (labels,)."""

POINT = "kto_point.value"
"""The reference point of `kto` where it rides along, shape (1,)."""


class Strategy(Protocol):
    """One way to aggregate LoRA adapters."""

    @property
    def name(self) -> str:
        """What a job plan calls it."""

    def trainable(self, names: Iterable[str]) -> tuple[str, ...]:
        """The arrays that a client trains, notes in its noise, and sends; sorted."""

    def wire_shapes(self, schema: Schema) -> dict[str, tuple[int, ...]]:
        """Names and shapes of a contribution; the job plan's `shapes`."""

    def contribution(self, before: NamedArrays, after: NamedArrays) -> dict[str, NDArray[np.float32]]:
        """A client's update: after - before, of the trained arrays alone.

        Raises:
            EncodingError: Names or shapes differ, or an array that is not trained has moved.
        """

    def apply(self, base: NamedArrays, mean: NamedArrays) -> dict[str, NDArray[np.float32]]:
        """The next adapter, from the broadcast one and the mean contribution.

        Raises:
            EncodingError: The mean does not have exactly the names and shapes of a contribution.
        """


class DeltaStrategy:
    """Sums the differences of a fixed choice of arrays; what is not chosen never moves.

    The sum is linear in what is sent, so the mean of the contributions is the contribution of
    the mean. As it stands it chooses every array; a strategy narrows `chosen`.
    """

    name: str

    def chosen(self, name: str) -> bool:
        """Whether the array of this name is trained and sent."""
        return is_known(name)

    def trainable(self, names: Iterable[str]) -> tuple[str, ...]:
        """The chosen names, sorted."""
        found = sorted(names)
        for name in found:
            if not is_known(name):
                raise EncodingError(
                    f"{name!r} is neither a LoRA factor nor a head nor a point: no strategy carries it"
                )
        return tuple(name for name in found if self.chosen(name))

    def wire_shapes(self, schema: Schema) -> dict[str, tuple[int, ...]]:
        """Shapes of the chosen arrays, in sorted order."""
        return {name: tuple(schema[name]) for name in self.trainable(schema)}

    def contribution(self, before: NamedArrays, after: NamedArrays) -> dict[str, NDArray[np.float32]]:
        """after - before of the chosen arrays; anything else must be untouched."""
        _same_layout(before, after)
        chosen = set(self.trainable(before))
        for name in before:
            if name not in chosen and not np.array_equal(before[name], after[name]):
                raise EncodingError(f"{name!r} is frozen under strategy {self.name!r}, but it has moved")
        return {name: np.asarray(after[name] - before[name], dtype=np.float32) for name in sorted(chosen)}

    def apply(self, base: NamedArrays, mean: NamedArrays) -> dict[str, NDArray[np.float32]]:
        """base + mean on the chosen arrays, summed in float64; the rest is carried over."""
        _same_layout({name: base[name] for name in self.trainable(base)}, mean)
        return {
            name: (value.astype(np.float64) + mean[name]).astype(np.float32) if name in mean else value.copy()
            for name, value in base.items()
        }


def is_frozen_half(name: str) -> bool:
    """Whether an array is a LoRA A factor, the half that FFA freezes."""
    return name.endswith(".lora_A.weight")


def is_known(name: str) -> bool:
    """Whether an array belongs to an adapter at all."""
    return name in (HEAD_WEIGHT, HEAD_BIAS, POINT) or name.endswith((".lora_A.weight", ".lora_B.weight"))


def _same_layout(expected: NamedArrays, given: NamedArrays) -> None:
    """Refuse a set of arrays with another name or shape."""
    if set(expected) != set(given):
        wrong = ", ".join(sorted(set(expected) ^ set(given)))
        raise EncodingError(f"arrays are missing or unknown: {wrong}")
    for name, value in expected.items():
        if value.shape != given[name].shape:
            raise EncodingError(f"{name!r} has shape {given[name].shape}, not {value.shape}")

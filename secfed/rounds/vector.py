"""The contributor that trains nothing: it reads named arrays from a safetensors file.

For `push` and for jobs of kind `vector`: whatever made the file (numpy, JAX, another trainer), the
secure sum is of use. The file is judged before anything is charged, by the plan's names, shapes
and bound; nothing is cut to fit. Nothing here knows how the vector was made: it is charged as a
release without a bound, or as what the site declares.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from secfed.errors import EncodingError
from secfed.privacy.events import Event, NonPrivate, declared
from secfed.rounds.plan import JobPlan, RoundPlan
from secfed.rounds.ports import NamedArrays, Update

__all__ = ["VectorContributor"]

REASON = "a vector made elsewhere, without a declared event"
"""Reason of the event under which such a vector is charged."""


class VectorContributor:
    """Offers the arrays of one file, as they are when a round begins.

    Args:
        path: A `.safetensors` file.
        weight: w of this site's vector; 1 unless the plan takes declared weights.
        event: What the site declares that the vector cost; None for a release without a bound.

    Raises:
        ValueError: An event that is not marked as declared.
    """

    def __init__(self, path: Path, *, weight: int = 1, event: Event | None = None) -> None:
        if event is not None and not declared(event):
            raise ValueError("what is said of a vector made elsewhere is a declared event")
        self._path, self._weight = path, weight
        self._event: Event = NonPrivate(REASON) if event is None else event

    def planned_event(self, plan: JobPlan) -> Event:
        """What was declared, else a release without a bound; the plan changes nothing about it."""
        del plan
        return self._event

    def check(self, plan: JobPlan) -> None:
        """Read the file as a round would, and refuse what the plan has no place for.

        Raises:
            EncodingError: No safetensors file; a name, shape or type that is not the plan's; a value
                that is not finite, or beyond the bound once multiplied by the weight. The array is named.
        """
        self._read(plan)

    def contribute(self, plan: JobPlan, round_plan: RoundPlan, base: NamedArrays) -> Update:
        """The file's arrays as this round's update; errors as `check`."""
        del round_plan, base
        return Update(self._read(plan), self._weight, 0, self.planned_event(plan))

    def _read(self, plan: JobPlan) -> dict[str, NDArray[np.float32]]:
        if plan.weights == "uniform" and self._weight != 1:
            raise EncodingError(
                f"job {plan.job} takes no weights, and {self._weight} was given",
                hint="Leave out --weight: every site of this job counts alike.",
            )
        if not 1 <= self._weight <= plan.weight_cap:
            raise EncodingError(f"the weight {self._weight} is outside 1 to {plan.weight_cap}, the job's cap")
        arrays = self._load(plan)
        limit = float(plan.bound)
        for name, array in arrays.items():
            self._check_values(name, array, limit)
        return arrays

    def _load(self, plan: JobPlan) -> dict[str, NDArray[Any]]:
        """Exactly the plan's arrays; names and shapes are compared before a value is read."""
        try:
            with safe_open(self._path, framework="numpy") as file:
                names = set(file.keys())
                self._compare(names, set(plan.shapes))
                for name, shape in plan.shapes.items():
                    found = tuple(file.get_slice(name).get_shape())
                    if found != tuple(shape):
                        raise EncodingError(
                            f"{self._path}: array {name!r} has shape {found}, the job says {tuple(shape)}"
                        )
                return {name: self._floating(name, file.get_tensor(name)) for name in sorted(names)}
        except OSError as problem:
            raise EncodingError(f"{self._path}: {problem.strerror or problem}") from problem
        except (SafetensorError, TypeError, KeyError) as problem:  # the last two: a type that numpy lacks
            raise EncodingError(f"{self._path} is no safetensors file for numpy: {problem}") from problem

    def _compare(self, found: set[str], wanted: set[str]) -> None:
        if found != wanted:
            name = min(found ^ wanted)
            where = "is in the file, but not in the job" if name in found else "of the job is not in the file"
            raise EncodingError(f"{self._path}: array {name!r} {where}")

    def _floating(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        if array.dtype not in (np.float16, np.float32, np.float64):
            raise EncodingError(
                f"{self._path}: array {name!r} holds {array.dtype}, not float16, float32 or float64"
            )
        return array

    def _check_values(self, name: str, array: NDArray[Any], limit: float) -> None:
        """Every value finite and within the bound once weighted, as the encoding will see it."""
        for value in (np.min(array), np.max(array)):
            if not np.isfinite(value):
                raise EncodingError(f"{self._path}: array {name!r} holds a value that is not finite")
            if abs(float(value) * self._weight) > limit:
                raise EncodingError(
                    f"{self._path}: array {name!r} goes beyond the job's bound of {limit:g}"
                    + (f" at weight {self._weight}" if self._weight != 1 else "")
                )

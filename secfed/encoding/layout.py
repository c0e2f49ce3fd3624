"""Named arrays as one flat vector, and back, by an order that all members agree on.

Names are sorted, so the order in which a program happened to hold its arrays changes nothing.
The digest over names and shapes is part of the manifest: members with different layouts never
come to a common key.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secfed.crypto.kdf import digest
from secfed.crypto.labels import Label
from secfed.errors import EncodingError
from secfed.ids import Digest
from secfed.limits import ARRAY_NAME_CHARS_MAX, ARRAY_SIDES_MAX, VECTOR_COORDINATES_MAX

__all__ = ["Layout"]


@dataclass(frozen=True, slots=True)
class Layout:
    """Names and shapes of the arrays that a vector holds, in the vector's order.

    Args:
        names: Strictly ascending by code point.
        shapes: One per name; () is a scalar.

    Raises:
        EncodingError: Not sorted, empty, a shape with no elements, or beyond the limits above.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if not self.names or len(self.names) != len(self.shapes):
            raise EncodingError("a layout has at least one array, and a shape for each name")
        if any(a >= b for a, b in zip(self.names, self.names[1:], strict=False)):
            raise EncodingError("the names of a layout are distinct and in ascending order")
        for name, shape in zip(self.names, self.shapes, strict=True):
            if not 1 <= len(name) <= ARRAY_NAME_CHARS_MAX or not name.isprintable():
                raise EncodingError(f"an array's name has 1 to {ARRAY_NAME_CHARS_MAX} printable characters")
            if len(shape) > ARRAY_SIDES_MAX or any(side < 1 for side in shape):
                raise EncodingError(
                    f"array {name!r}: a shape has at most {ARRAY_SIDES_MAX} sides, each at least 1"
                )
        if self.size > VECTOR_COORDINATES_MAX:
            raise EncodingError(f"a vector has at most {VECTOR_COORDINATES_MAX} coordinates, not {self.size}")

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, tuple[int, ...]]) -> Layout:
        """The layout of these arrays, whatever the mapping's order.

        Raises:
            EncodingError: See the class.
        """
        names = tuple(sorted(shapes))
        return cls(names, tuple(tuple(shapes[name]) for name in names))

    @property
    def size(self) -> int:
        """d, coordinates of the vector."""
        return sum(math.prod(shape) for shape in self.shapes)

    @property
    def digest(self) -> Digest:
        """Digest of names and shapes, over the exact text of `to_json`."""
        return digest(Label.LAYOUT, self.to_json().encode())

    def to_json(self) -> str:
        """The layout as text: a list of [name, shape], in order; the inverse of `from_json`."""
        pairs = [[name, list(shape)] for name, shape in zip(self.names, self.shapes, strict=True)]
        return json.dumps(pairs, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Layout:
        """Read exactly what `to_json` writes.

        Raises:
            EncodingError: Anything else, another spelling of the same layout included.
        """
        try:
            pairs: Any = json.loads(text)
            layout = cls(
                tuple(_string(name) for name, _ in pairs),
                tuple(tuple(_integer(side) for side in shape) for _, shape in pairs),
            )
        except (ValueError, TypeError, RecursionError):
            raise EncodingError("a layout is a JSON list of [name, shape]") from None
        if layout.to_json() != text:
            raise EncodingError("a layout's text is not in its one form")
        return layout

    def flatten(self, arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        """Arrays as one vector; the inverse of `unflatten`.

        Args:
            arrays: Floating-point arrays of exactly these names and shapes.

        Returns:
            Shape (d,), a copy; exact, since every float16 and float32 is a float64.

        Raises:
            EncodingError: A name, a shape or a type is another.
        """
        if arrays.keys() != set(self.names):
            odd = min(arrays.keys() ^ set(self.names))
            where = "is not in the layout" if odd in arrays else "is missing"
            raise EncodingError(f"array {odd!r} {where}")
        vector = np.empty(self.size, np.float64)
        offset = 0
        for name, shape in zip(self.names, self.shapes, strict=True):
            array = arrays[name]
            if array.shape != shape:
                raise EncodingError(f"array {name!r} has shape {array.shape}, the layout says {shape}")
            if array.dtype not in (np.float16, np.float32, np.float64):
                raise EncodingError(f"array {name!r} is {array.dtype}, not float16, float32 or float64")
            vector[offset : offset + array.size] = array.reshape(-1)
            offset += array.size
        return vector

    def unflatten(self, vector: NDArray[np.float64]) -> dict[str, NDArray[np.float32]]:
        """A vector as named arrays; the inverse of `flatten`, up to float32.

        Args:
            vector: Shape (d,).

        Returns:
            Fresh float32 arrays, in the layout's order.

        Raises:
            EncodingError: A value is not finite as a float32; the array is named.
        """
        if vector.shape != (self.size,):
            raise ValueError(f"a vector of shape {vector.shape} is not one of {self.size} coordinates")
        arrays: dict[str, NDArray[np.float32]] = {}
        offset = 0
        for name, shape in zip(self.names, self.shapes, strict=True):
            size = math.prod(shape)
            with np.errstate(over="ignore"):  # an overflow becomes infinite, and is refused below
                array = vector[offset : offset + size].astype(np.float32).reshape(shape)
            if not np.isfinite(array).all():
                raise EncodingError(f"array {name!r} is not finite as float32")
            arrays[name] = array
            offset += size
        return arrays


def _string(value: object) -> str:
    """Exactly a string: JSON's other types are refused."""
    if not isinstance(value, str):
        raise TypeError("a name is a string")
    return value


def _integer(value: object) -> int:
    """Exactly an integer: a bool is one to Python, and not here."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError("a side is an integer")
    return value

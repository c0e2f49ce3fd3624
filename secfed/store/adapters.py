"""Adapters by digest: safetensors files, never pickle.

A file's name is the digest of its exact bytes, so a plan that names a base adapter names
these bytes, and a file that was changed is refused when it is read. The digest function is an
argument, as in `journal`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from secfed.errors import StorageError
from secfed.ids import Digest
from secfed.store import jsontext
from secfed.store.files import (
    Barrier,
    make_directory,
    no_barrier,
    replace,
    replace_pieces,
    storage_errors,
    write_all,
)
from secfed.store.jsontext import Json

__all__ = ["AdapterStore", "Tiled"]

_Pieces: TypeAlias = "Iterable[bytes | memoryview]"

_METADATA = "secfed"
"""The one metadata name of a file: safetensors keeps several in no fixed order, and bytes are digested."""

_PIECE_BYTES = 1 << 20
"""What is copied at once."""

_HEADER_ALIGN = 8
"""A safetensors header is filled with spaces to a multiple of so many bytes, so that arrays are aligned."""


@dataclass(frozen=True, slots=True)
class Tiled:
    """An array of float64 that is never whole in memory.

    Attributes:
        tiles: Its elements in C order, a part at a time; asked for more than once, and the same each time.
    """

    shape: tuple[int, ...]
    tiles: Callable[[], Iterator[NDArray[np.float64]]]


class AdapterStore:
    """A directory of adapters.

    Args:
        directory: Created (0700) if missing.
        digest: Of a file's exact bytes, given as pieces and their size in all.
        barrier: See the package.
    """

    def __init__(
        self, directory: Path, *, digest: Callable[[_Pieces, int], Digest], barrier: Barrier = no_barrier
    ) -> None:
        self._directory = directory
        self._digest = digest
        self._barrier = barrier
        make_directory(directory)

    def put(self, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, Json]) -> Digest:
        """Write named arrays durably; the same arrays and metadata give the same bytes and digest.

        Args:
            arrays: Any shapes and numeric types, written in C order.
            metadata: Facts to keep beside them.

        Raises:
            StorageError: The file cannot be written.
        """
        plain = {name: np.ascontiguousarray(array) for name, array in sorted(arrays.items())}
        data = save(plain, {_METADATA: jsontext.compact(metadata).decode()})
        digest = self._digest([data], len(data))
        replace(self._path(digest), data, barrier=self._barrier)
        return digest

    def put_tiled(self, arrays: Mapping[str, Tiled], metadata: Mapping[str, Json]) -> Digest:
        """As `put`, and to the same bytes, for arrays that would not all fit into memory.

        Raises:
            StorageError: The file cannot be written.
        """
        header = _header(arrays, metadata)
        size = len(header) + 8 * sum(math.prod(array.shape) for array in arrays.values())
        digest = self._digest(_pieces(header, arrays), size)
        replace_pieces(self._path(digest), _pieces(header, arrays), barrier=self._barrier)
        return digest

    def get(self, digest: Digest) -> dict[str, NDArray[Any]]:
        """Read named arrays back.

        Raises:
            StorageError: There is no such adapter, or its bytes do not have this digest.
        """
        return _parse(self.read_bytes(digest), str(self._path(digest)))

    def read_bytes(self, digest: Digest) -> bytes:
        """Read an adapter's exact bytes; errors as `get`."""
        path = self._path(digest)
        with storage_errors(path):
            data = path.read_bytes()
        self._check(digest, self._digest([data], len(data)))
        return data

    def copy(self, digest: Digest, to: Path) -> None:
        """Write an adapter's exact bytes to a new file, not synced; it is of no use if this raises.

        Raises:
            StorageError: As `get`, or the new file cannot be written.
        """
        path = self._path(digest)
        with storage_errors(path), path.open("rb") as source, to.open("xb") as target:

            def copied() -> Iterator[bytes]:
                while piece := source.read(_PIECE_BYTES):
                    with storage_errors(to):
                        write_all(target.fileno(), piece)
                    yield piece

            found = self._digest(copied(), path.stat().st_size)
        self._check(digest, found)

    def _check(self, digest: Digest, found: Digest) -> None:
        if found != digest:
            path = self._path(digest)
            raise StorageError(f"{path} was changed: its bytes do not have the digest in its name")

    def _path(self, digest: Digest) -> Path:
        return self._directory / f"{digest.hex()}.safetensors"


def _header(arrays: Mapping[str, Tiled], metadata: Mapping[str, Json]) -> bytes:
    """What a safetensors file of float64 begins with, as the library itself writes it."""
    entries: dict[str, object] = {"__metadata__": {_METADATA: jsontext.compact(metadata).decode()}}
    offset = 0
    for name, array in sorted(arrays.items()):
        end = offset + 8 * math.prod(array.shape)
        shape = array.shape or (1,)  # as numpy.ascontiguousarray makes of a scalar
        entries[name] = {"dtype": "F64", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _HEADER_ALIGN)
    return len(text).to_bytes(8, "little") + text


def _pieces(header: bytes, arrays: Mapping[str, Tiled]) -> Iterator[bytes | memoryview]:
    """A file from its begin to its end."""
    yield header
    for _, array in sorted(arrays.items()):
        for tile in array.tiles():
            yield np.ascontiguousarray(tile, "<f8").data.cast("B")


def _parse(data: bytes, source: str) -> dict[str, NDArray[Any]]:
    """Read named arrays; raise StorageError naming the source if the bytes are no safetensors file."""
    try:
        arrays: dict[str, NDArray[Any]] = load(data)
    except (SafetensorError, KeyError) as problem:  # KeyError: a number type that numpy lacks
        raise StorageError(f"{source} is not an adapter: {problem}") from problem
    return arrays

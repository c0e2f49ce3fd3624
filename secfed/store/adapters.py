"""Adapters by digest: safetensors files, never pickle.

A file's name is the digest of its exact bytes, so a plan that names a base adapter names
these bytes, and a file that was changed is refused when it is read. The digest function is an
argument, as in `journal`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from secfed.errors import StorageError
from secfed.ids import Digest
from secfed.store import jsontext
from secfed.store.files import Barrier, make_directory, no_barrier, replace, storage_errors
from secfed.store.jsontext import Json

__all__ = ["AdapterStore"]

_METADATA = "secfed"
"""The one metadata name of a file: safetensors keeps several in no fixed order, and bytes are digested."""


class AdapterStore:
    """A directory of adapters.

    Args:
        directory: Created (0700) if missing.
        digest: Of a file's exact bytes.
        barrier: See the package.
    """

    def __init__(
        self, directory: Path, *, digest: Callable[[bytes], Digest], barrier: Barrier = no_barrier
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
        return self._write(save(plain, {_METADATA: jsontext.compact(metadata).decode()}))

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
        if self._digest(data) != digest:
            raise StorageError(f"{path} was changed: its bytes do not have the digest in its name")
        return data

    def _write(self, data: bytes) -> Digest:
        digest = self._digest(data)
        replace(self._path(digest), data, barrier=self._barrier)
        return digest

    def _path(self, digest: Digest) -> Path:
        return self._directory / f"{digest.hex()}.safetensors"


def _parse(data: bytes, source: str) -> dict[str, NDArray[Any]]:
    """Read named arrays; raise StorageError naming the source if the bytes are no safetensors file."""
    try:
        arrays: dict[str, NDArray[Any]] = load(data)
    except (SafetensorError, KeyError) as problem:  # KeyError: a number type that numpy lacks
        raise StorageError(f"{source} is not an adapter: {problem}") from problem
    return arrays

"""Adapters by digest."""

from __future__ import annotations

import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secfed.crypto import kdf
from secfed.crypto.labels import Label
from secfed.errors import StorageError
from secfed.ids import Digest
from secfed.store.adapters import AdapterStore, Tiled
from secfed.store.jsontext import Json

ARRAYS = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.array([1.5], dtype=np.float64)}
FACTS = {"round": 3, "job": "demo", "z": "1", "y": "2", "x": "3"}


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    return AdapterStore(tmp_path / "adapters", digest=partial(kdf.digest_pieces, Label.ADAPTER))


def test_arrays_come_back_exactly(store: AdapterStore) -> None:
    found = store.get(store.put(ARRAYS, FACTS))
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


def test_the_digest_is_that_of_the_files_bytes(store: AdapterStore, tmp_path: Path) -> None:
    digest = store.put(ARRAYS, FACTS)
    data = (tmp_path / "adapters" / f"{digest.hex()}.safetensors").read_bytes()
    assert store.read_bytes(digest) == data
    assert digest == kdf.digest(Label.ADAPTER, data)


def test_the_same_arrays_give_the_same_bytes_in_another_process(store: AdapterStore, tmp_path: Path) -> None:
    program = (
        "import sys, pathlib, numpy as np; from functools import partial\n"
        "from secfed.crypto import kdf; from secfed.crypto.labels import Label\n"
        "from secfed.store.adapters import AdapterStore\n"
        "s = AdapterStore(pathlib.Path(sys.argv[1]), digest=partial(kdf.digest_pieces, Label.ADAPTER))\n"
        "a = {'a': np.array([1.5]), 'b': np.arange(6, dtype=np.float32).reshape(2, 3)}\n"
        "print(s.put(a, {'x': '3', 'y': '2', 'z': '1', 'job': 'demo', 'round': 3}).hex())"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "other")], capture_output=True, check=True, text=True
    )
    assert ended.stdout.strip() == store.put(dict(reversed(ARRAYS.items())), FACTS).hex()


def test_an_array_in_another_memory_order_is_the_same_array(store: AdapterStore) -> None:
    fortran = {**ARRAYS, "b": np.asfortranarray(ARRAYS["b"])}
    assert store.put(fortran, FACTS) == store.put(ARRAYS, FACTS)


def tiled(array: np.ndarray[Any, Any]) -> Tiled:
    """The array as one that is made tile by tile."""
    flat = array.reshape(-1)
    return Tiled(array.shape, lambda: (flat[start : start + 5] for start in range(0, flat.size, 5)))


def test_an_array_that_is_never_whole_gives_the_same_file(store: AdapterStore) -> None:
    """Names are sorted and escaped, and the header is filled, as the library does it."""
    draws = np.random.default_rng(7)
    names = ["weighted_sum.b", "mean.b", "mean.a/x", 'mean.a"\\\n\x1fé', "m"]
    shapes = [(3, 4), (), (0, 2), (17,), (1, 1, 5)]
    for count in range(1, len(names) + 1):
        arrays = {name: draws.normal(size=shape) for name, shape in zip(names[:count], shapes, strict=False)}
        parts = {name: tiled(np.asarray(array)) for name, array in arrays.items()}
        facts: dict[str, Json] = {"round": count, "job": "é" * count}
        digest = store.put_tiled(parts, facts)
        data = store.read_bytes(digest)
        assert store.put({name: np.asarray(array) for name, array in arrays.items()}, facts) == digest
        assert store.read_bytes(digest) == data


def test_a_copy_has_the_files_bytes(store: AdapterStore, tmp_path: Path) -> None:
    digest = store.put(ARRAYS, FACTS)
    store.copy(digest, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == store.read_bytes(digest)
    path = tmp_path / "adapters" / f"{digest.hex()}.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(StorageError, match="was changed"):
        store.copy(digest, tmp_path / "other")


def test_a_changed_file_is_refused(store: AdapterStore, tmp_path: Path) -> None:
    digest = store.put(ARRAYS, FACTS)
    path = tmp_path / "adapters" / f"{digest.hex()}.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    for read in (store.get, store.read_bytes):
        with pytest.raises(StorageError, match="was changed"):
            read(digest)


def test_an_unknown_digest_names_the_missing_file(store: AdapterStore) -> None:
    with pytest.raises(StorageError, match="No such file"):
        store.get(Digest(bytes(32)))


@pytest.mark.parametrize(
    "data",
    [b"", pickle.dumps(ARRAYS), b"\xff" * 64, (1 << 40).to_bytes(8, "little") + b"{}"],
    ids=["empty", "pickle", "noise", "long-header"],
)
def test_only_safetensors_is_taken_in(store: AdapterStore, tmp_path: Path, data: bytes) -> None:
    """Even under its right digest."""
    store.put(ARRAYS, FACTS)
    digest = kdf.digest(Label.ADAPTER, data)
    (tmp_path / "adapters" / f"{digest.hex()}.safetensors").write_bytes(data)
    with pytest.raises(StorageError, match="not an adapter"):
        store.get(digest)

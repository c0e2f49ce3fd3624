"""Recognise a secret wherever it turns up: as bytes, hexadecimal, base64, escapes or numbers.

A leak seldom keeps the form of what leaked: a key is printed by a library as a number, a
vector as a list, a PEM block holds both in base64 at any of three alignments. A sentinel knows
all these forms of one secret, and a search looks for every one of them.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secfed.encoding import ring

__all__ = ["Find", "Sentinel", "found_in", "nowhere", "of_secret", "of_text", "of_vector", "search"]

_WINDOW = 24
"""Coordinates that make a part of a vector recognisable; any run of so many is looked for."""

_LISTED = 8
"""Numbers of a printed list that are looked for: a long one is printed in lines or cut short."""

_LEAST_BYTES = 8
"""Shorter forms would be found by chance."""


@dataclass(frozen=True, slots=True)
class Sentinel:
    """One secret with all the forms in which it is looked for; prints its name only."""

    name: str
    forms: tuple[bytes, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Find:
    """A secret where it must not be."""

    sentinel: Sentinel
    where: str

    def __str__(self) -> str:
        return f"{self.sentinel.name} in {self.where}"


def of_secret(name: str, secret: bytes) -> Sentinel:
    """A key, seed or share of at least 8 random bytes."""
    numbers = [str(int.from_bytes(secret, order)) for order in ("big", "little")]
    listed = ", ".join(map(str, secret[: 2 * _LISTED]))
    texts = [secret.hex(), secret.hex().upper(), repr(secret)[2:-1], *numbers, listed]
    return Sentinel(name, _long((secret, *_base64(secret), *(text.encode() for text in texts))))


def of_text(name: str, text: str) -> Sentinel:
    """A passphrase, a row: anything that people write."""
    data = text.encode()
    return Sentinel(name, _long((data, *_base64(data), data.hex().encode(), data.hex().upper().encode())))


def of_vector(name: str, values: Sequence[float], words: NDArray[np.uint32], bits: int) -> Sentinel:
    """A vector in the clear: as numbers of any width, as grid words, packed, and as a printed list.

    Args:
        values: Its coordinates, in model units.
        words: The whole contribution on its grid, weight and counter included.
        bits: B, which the words are packed to.
    """
    forms: list[bytes] = []
    for start in range(0, len(values) - _WINDOW + 1, _WINDOW):
        run = np.asarray(values[start : start + _WINDOW])
        forms += [run.astype(kind).tobytes() for kind in ("<f2", "<f4", "<f8", ">f4", ">f8")]
        forms += [", ".join(map(repr, run.tolist()[:_LISTED])).encode()]
    for start in range(0, words.size - _WINDOW + 1, _WINDOW):
        run = words[start : start + _WINDOW]
        forms += [run.astype(kind).tobytes() for kind in ("<u2", "<u4", "<u8", ">u4")]
        forms += [
            ring.pack(np.ascontiguousarray(run), bits),
            ", ".join(map(str, run.tolist()[:_LISTED])).encode(),
        ]
    return Sentinel(name, _long(tuple(dict.fromkeys(forms))))


def found_in(data: bytes, sentinels: Iterable[Sentinel]) -> list[Sentinel]:
    """Which of them show in some bytes; line ends inside a form, as in PEM, hide nothing."""
    joined = data.replace(b"\r", b"").replace(b"\n", b"")
    return [each for each in sentinels if any(form in data or form in joined for form in each.forms)]


def nowhere(_path: Path, _sentinel: Sentinel) -> bool:
    """For a search in which nothing stands by design."""
    return False


def search(
    root: Path, sentinels: Sequence[Sentinel], *, by_design: Callable[[Path, Sentinel], bool] = nowhere
) -> list[Find]:
    """Look through every file below a folder, names included.

    Args:
        by_design: Whether a secret may stand in a file, such as a key in its own key file.
    """
    held = {path: _held(path, root) for path in sorted(root.rglob("*"))}
    somewhere = found_in(b"\0".join(held.values()), sentinels)  # once over all: few are found, if any
    return [
        Find(each, str(path.relative_to(root)))
        for path, data in held.items()
        for each in found_in(data, somewhere)
        if not by_design(path, each)
    ]


def _held(path: Path, root: Path) -> bytes:
    """A file's name and content, or the name of what is no file."""
    name = str(path.relative_to(root)).encode()
    if path.is_symlink() or not path.is_file():
        return name
    try:
        return name + b"\0" + path.read_bytes()
    except FileNotFoundError:  # gone since it was listed
        return name


def _long(forms: Iterable[bytes]) -> tuple[bytes, ...]:
    return tuple(form for form in forms if len(form) >= _LEAST_BYTES)


def _base64(secret: bytes) -> list[bytes]:
    """The secret inside a longer base64 text, at each of its three alignments, in both alphabets."""
    forms: list[bytes] = []
    for shift, lead in ((0, 0), (1, 2), (2, 3)):
        whole = bytes(shift) + secret
        text = base64.b64encode(whole[: len(whole) // 3 * 3])[lead:]
        forms += [text, text.translate(bytes.maketrans(b"+/", b"-_"))]
    return forms

"""Canaries: rows that belong to nobody, put into a site's data or left out by secret fair coins.

A canary is made of words drawn at random, so that no other row pulls a model its way and its
trace, if the noise lets one through, is its own. Coins come from the operating system's entropy.
Whoever trains must not know them: they stand in one file, beside the rows that its coins chose.

Source: Steinke, Nasr and Jagielski 2023, arXiv:2305.08846, section 4 (one coin a canary).
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from secfed.aggregation.spec import Trainer
from secfed.errors import ConfigError

__all__ = ["COUNT_MAX", "COUNT_MIN", "WORDS", "Plain", "as_csv", "as_lines", "flip", "invent", "site_rows"]

Plain = Mapping[str, str | bool]
"""A row of one file: column to text, or a thumb."""

COUNT_MIN = 20
"""Fewest canaries of an audit: with fewer, even guesses that are all right show less than epsilon 1.8."""

COUNT_MAX = 100_000
"""More canaries than this are a data set of their own."""

WORDS = tuple(first + vowel for first in "bcdfghjklmnprstvwxyz" for vowel in "aeiou")
"""One hundred syllables: every tokenizer has them, and no text strings them together at random."""

_DRAW_BYTES = 8
"""Of entropy for one draw: 2^64 is so far above any list that its remainder favours no word."""


def invent(
    trainer: Trainer,
    count: int,
    *,
    labels: Sequence[str] = (),
    words: Sequence[str] = WORDS,
    length: int = 12,
    entropy: Callable[[int], bytes] = os.urandom,
) -> tuple[Plain, ...]:
    """Make canaries in a trainer's data format.

    Args:
        trainer: Whose columns they have.
        count: m.
        labels: Classes to draw from (`classify`).
        words: What texts are made of.
        length: Words of one text.
        entropy: Where draws come from.

    Raises:
        ConfigError: No such number of canaries, too few words, or `classify` without its labels.
    """
    if not 1 <= count <= COUNT_MAX:
        raise ConfigError(f"the number of canaries is from 1 to {COUNT_MAX}")
    if len(set(words)) < 2 or length < 1:
        raise ConfigError("canaries are made of at least one word each, drawn from at least two")
    if trainer == "classify" and len(set(labels)) < 2:
        raise ConfigError(
            "canaries of the trainer classify need the job's labels",
            hint="Give them by --labels, as the job lists them.",
        )

    def pick(among: Sequence[str]) -> str:
        return among[int.from_bytes(entropy(_DRAW_BYTES), "big") % len(among)]

    def text() -> str:
        return " ".join(pick(words) for _ in range(length))

    def row() -> Plain:
        match trainer:
            case "classify":
                return {"text": text(), "label": pick(labels)}
            case "sft":
                return {"prompt": text(), "completion": text()}
            case "dpo":
                return {"prompt": text(), "chosen": text(), "rejected": text()}
            case "kto":
                return {"prompt": text(), "completion": text(), "label": entropy(1)[0] < 128}

    return tuple(row() for _ in range(count))


def flip(count: int, entropy: Callable[[int], bytes] = os.urandom) -> NDArray[np.bool_]:
    """One fair coin a canary: whether it is put into the data."""
    drawn = np.frombuffer(entropy((count + 7) // 8), dtype=np.uint8)
    return np.unpackbits(drawn)[:count].astype(np.bool_)


def site_rows(
    rows: Sequence[Plain],
    *,
    columns: Mapping[str, str],
    person: str | None,
    numbers: bool = False,
    entropy: Callable[[int], bytes] = os.urandom,
) -> list[dict[str, str | bool | int]]:
    """Rows as a site's file has them.

    Args:
        rows: The canaries to put in.
        columns: Trainer's column name to the file's, where they differ.
        person: The column that names the person, where there is one: each canary is a person of
            its own, or its coin would be no whole unit.
        numbers: Persons are whole numbers in this file, not texts.
        entropy: Where the persons' names come from.
    """

    def owner() -> str | int:
        drawn = entropy(6)
        return int.from_bytes(drawn, "big") if numbers else f"canary-{drawn.hex()}"

    made: list[dict[str, str | bool | int]] = []
    for row in rows:
        made.append({columns.get(name, name): value for name, value in row.items()})
        if person is not None:
            made[-1][person] = owner()
    return made


def as_lines(rows: Sequence[Mapping[str, str | bool | int]]) -> bytes:
    """JSON, a line a row."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_csv(rows: Sequence[Mapping[str, str | bool | int]]) -> bytes:
    """CSV with a head, as spreadsheets write it."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()

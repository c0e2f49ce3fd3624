"""Canaries: in every trainer's format, each with a fair coin of its own, in the site's columns."""

from __future__ import annotations

import csv
import io
import json
import os

import numpy as np
import pytest
from scipy import stats

from secfed.audit.canary import WORDS, as_csv, as_lines, flip, invent, site_rows
from secfed.errors import ConfigError
from secfed.training.rows import FORMATS

LABELS = ("no", "yes")


@pytest.mark.parametrize("trainer", sorted(FORMATS))
def test_canaries_have_the_trainers_columns_and_kinds(trainer: str) -> None:
    rows = invent(trainer, 40, labels=LABELS if trainer == "classify" else (), length=5)
    for row in rows:
        (form,) = [each for each in FORMATS[trainer] if set(each) == set(row)]
        for column, kinds in form.items():
            if "bool" in kinds:
                assert isinstance(row[column], bool)
            elif "label" in kinds:
                assert row[column] in LABELS
            else:
                assert len(row[column].split()) == 5
                assert set(row[column].split()) <= set(WORDS)
    assert len({json.dumps(row) for row in rows}) == 40


def test_words_and_coins_are_drawn_evenly() -> None:
    """Chi-square over the words, binomial over the coins; each errs once in 10^6."""
    counts = np.zeros(10)
    words = [str(number) for number in range(10)]
    for row in invent("sft", 1000, words=words, length=5):
        for text in row.values():
            for word in text.split():
                counts[int(word)] += 1
    assert counts.sum() == 10_000
    assert stats.chisquare(counts).pvalue > 1e-6
    coins = flip(20_000)
    assert stats.binomtest(int(coins.sum()), coins.size).pvalue > 1e-6
    assert stats.binomtest(int((coins[1:] != coins[:-1]).sum()), coins.size - 1).pvalue > 1e-6


def test_coins_come_from_the_entropy_given() -> None:
    assert flip(10, lambda count: bytes([0b10110000, 0b01000000])[:count]).tolist() == [
        True, False, True, True, False, False, False, False, False, True,
    ]  # fmt: skip


def test_a_canary_is_a_person_of_its_own() -> None:
    rows = invent("classify", 30, labels=LABELS)
    made = site_rows(rows, columns={"text": "note", "label": "class"}, person="patient")
    assert all(set(row) == {"note", "class", "patient"} for row in made)
    assert len({row["patient"] for row in made}) == 30
    numbered = site_rows(rows, columns={}, person="patient", numbers=True)
    assert all(isinstance(row["patient"], int) for row in numbered)
    assert all("patient" not in row for row in site_rows(rows, columns={}, person=None))


def test_rows_are_written_as_they_are_read() -> None:
    rows = invent("classify", 5, labels=("nein", 'sagt "ja", öfter'))
    assert [json.loads(line) for line in as_lines(rows).splitlines()] == list(rows)
    assert list(csv.DictReader(io.StringIO(as_csv(rows).decode(), newline=""))) == list(rows)


@pytest.mark.parametrize(
    ("trainer", "count", "options", "what"),
    [
        ("classify", 5, {}, "need the job's labels"),
        ("classify", 5, {"labels": ("a", "a")}, "need the job's labels"),
        ("sft", 0, {}, "number of canaries"),
        ("sft", 100_001, {}, "number of canaries"),
        ("sft", 5, {"words": ("one", "one")}, "drawn from at least two"),
        ("sft", 5, {"length": 0}, "at least one word"),
    ],
)
def test_what_cannot_be_made_is_refused(trainer: str, count: int, options: dict, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        invent(trainer, count, entropy=os.urandom, **options)

"""Preference pairs into single-response feedback, and feedback over sites, for experiments with KTO.

A pair (x, y+, y-) becomes two rows, (x, y+, true) and (x, y-, false); the rows of several sites may
then be spread over them in four ways. Everything follows from the rows, their order, the mode and
a public seed, so that an experiment can be repeated; the manifest says what it was made of.

Spreading moves rows from site to site. That is an experiment with rows that may be moved, and it
breaks what federated privacy rests on: where the rows of one owner lie at two sites, the sites are
not disjoint, parallel composition fails, and the owner pays for both. `Spread.shared_owners` counts
them. Mode `drop` alone leaves every row where its owner is.

Source: Spadea and Seneviratne 2025, arXiv:2502.14187 (`shuffle`); label skew after Hsu, Qi and
Brown 2019, arXiv:1909.06335.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from secfed.errors import ConfigError, DataError
from secfed.training.data import Table
from secfed.training.modes import Mode, mode_of
from secfed.training.rows import FORMATS, PAIRS, Format, Value, with_prompt

__all__ = ["INPUT_FORMATS", "Feedback", "Spread", "feedback", "redistribute"]

INPUT_FORMATS: Final[tuple[Format, ...]] = (*PAIRS, *FORMATS["kto"])
"""Pairs, or rows that were made from pairs."""


@dataclass(frozen=True, slots=True)
class Feedback:
    """One response with its thumb.

    Attributes:
        prompt: What was asked.
        completion: The response.
        label: Thumb up (preferred) or down.
        pair: Number of the pair it is a half of, or of its own where it has no other half; rows of
            different files never share one.
        owner: The person; None where no column names one, and the pair stands for its owner.
    """

    prompt: Value = field(repr=False)
    completion: Value = field(repr=False)
    label: bool = field(repr=False)
    pair: int
    owner: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Spread:
    """Rows of every site after they were spread.

    Attributes:
        sites: One list of rows a site, in the order of the sites given.
        shared_owners: Owners with rows at two sites or more.
    """

    sites: tuple[tuple[Feedback, ...], ...]
    shared_owners: int


def feedback(table: Table, first_pair: int = 0) -> tuple[Feedback, ...]:
    """The rows of one file as single responses.

    Args:
        table: Loaded with `INPUT_FORMATS`: pairs, or rows with a thumb. Of the latter, a thumb up
            and a thumb down on the same prompt, by the same owner, are the halves of a pair.
        first_pair: Number of the first pair.

    Returns:
        For pairs the preferred response before the other; else the file's rows in their order.

    Raises:
        DataError: No column holds prompts, and the responses of a pair do not begin with one.
    """
    owners: Sequence[str | None] = table.owners or [None] * len(table.rows)
    if "chosen" in table.columns:
        pairs = [with_prompt(row) for row in table.rows]
        bare = next((place for place, row in enumerate(pairs) if not row["prompt"]), None)
        if bare is not None:
            raise DataError(
                f"{table.path}: row {bare + 1}: no column 'prompt', and the responses begin with none",
                hint="Add a column prompt, or let both responses begin with it.",
            )
        return tuple(
            Feedback(row["prompt"], row[side], side == "chosen", first_pair + number, owner)
            for number, (row, owner) in enumerate(zip(pairs, owners, strict=True))
            for side in ("chosen", "rejected")
        )
    rows: list[Feedback] = []
    waiting: dict[tuple[Value, str | None, bool], list[int]] = {}
    for number, (row, owner) in enumerate(zip(table.rows, owners, strict=True)):
        label = bool(row["label"])
        others = waiting.get((row["prompt"], owner, not label))
        if others:
            pair = others.pop(0)
        else:
            pair = first_pair + number
            waiting.setdefault((row["prompt"], owner, label), []).append(pair)
        rows.append(Feedback(row["prompt"], row["completion"], label, pair, owner))
    return tuple(rows)


def redistribute(
    tables: Sequence[Table], mode: Mode, seed: int, *, concentration: float | None = None
) -> Spread:
    """Spread the feedback of several sites over them.

    Args:
        tables: One a site, each loaded with `INPUT_FORMATS`.
        mode: How; see `MODES`.
        seed: Any whole number; public.
        concentration: Parameter of the Dirichlet law (`label-skew` only), above 0: small is skewed,
            large gives every site the same share of thumbs.

    Raises:
        ConfigError: Fewer than two sites, or a concentration that is missing, out of place or not
            above 0.
        DataError: `split` where one site holds more than half of all rows, so that not every pair
            can be parted.
    """
    if len(tables) < 2:
        raise ConfigError("rows are spread over at least two sites")
    mode_of(mode, concentration)
    before: list[tuple[Feedback, ...]] = []
    for table in tables:
        before.append(feedback(table, first_pair=sum(len(each.rows) for each in tables[: len(before)])))
    draw = random.Random(seed)  # noqa: S311 - a public seed, written into the manifest; nothing is secret
    if mode == "drop":
        after = [_drop(rows, draw) for rows in before]
    elif mode == "split":
        after = _split(before, draw)
    elif mode == "shuffle":
        after = _shuffle(before, draw)
    else:
        after = _skew(before, draw, concentration or 1.0)
    return Spread(tuple(tuple(rows) for rows in after), _shared(after))


def _drop(rows: Sequence[Feedback], draw: random.Random) -> list[Feedback]:
    """One half of every pair, by a fair coin; a row without another half stays."""
    return [draw.choice(halves) for halves in _pairs(rows)]


def _split(before: Sequence[Sequence[Feedback]], draw: random.Random) -> list[list[Feedback]]:
    """Pairs and single rows in random order, each to the two sites, or the site, with the most room.

    As long as no site has more room than there are pairs and single rows left, taking those with
    the most room keeps it so: no pair is ever forced into one site.
    """
    room = [len(rows) for rows in before]
    groups = [pair for rows in before for pair in _pairs(rows)]
    if max(room) > len(groups):
        raise DataError(
            "one site holds more rows than there are pairs, so not every pair can be parted",
            hint="Take rows from the largest site, or use another mode.",
        )
    draw.shuffle(groups)
    after: list[list[Feedback]] = [[] for _ in before]
    for group in groups:
        places = sorted(range(len(room)), key=lambda site: (-room[site], draw.random()))
        halves = draw.sample(group, len(group))
        for half, site in zip(halves, places, strict=False):
            after[site].append(half)
            room[site] -= 1
    return [draw.sample(rows, len(rows)) for rows in after]


def _shuffle(before: Sequence[Sequence[Feedback]], draw: random.Random) -> list[list[Feedback]]:
    """All rows permuted, cut into the sizes that the sites had."""
    rows = [row for site in before for row in site]
    draw.shuffle(rows)
    return [[rows.pop() for _ in site] for site in before]


def _skew(
    before: Sequence[Sequence[Feedback]], draw: random.Random, concentration: float
) -> list[list[Feedback]]:
    """Every site draws its share of thumbs up, and so many rows of each thumb while they last.

    Two labels make the Dirichlet law a beta law. Sites choose in random order; each keeps a row of
    either thumb, and leaves one for every site after it, as far as there are enough.
    """
    ups, downs = ([row for site in before for row in site if row.label is label] for label in (True, False))
    draw.shuffle(ups)
    draw.shuffle(downs)
    order = draw.sample(range(len(before)), len(before))
    after: list[list[Feedback]] = [[] for _ in before]
    for done, site in enumerate(order, start=1):
        size, later = len(before[site]), len(order) - done
        wish = round(size * draw.betavariate(concentration, concentration))
        least, most = max(1, size - (len(downs) - later)), min(size - 1, len(ups) - later)
        if least > most:
            least, most = max(0, size - len(downs)), min(size, len(ups))
        count = min(max(wish, least), most)
        rows = [ups.pop() for _ in range(count)] + [downs.pop() for _ in range(size - count)]
        after[site] = draw.sample(rows, size)
    return after


def _pairs(rows: Sequence[Feedback]) -> list[list[Feedback]]:
    """Rows by pair, in the order of their first rows."""
    pairs: dict[int, list[Feedback]] = {}
    for row in rows:
        pairs.setdefault(row.pair, []).append(row)
    return list(pairs.values())


def _shared(sites: Sequence[Sequence[Feedback]]) -> int:
    """Owners with rows at two sites or more; without names, each pair is an owner."""
    homes = Counter(
        owner
        for rows in sites
        for owner in {(row.owner if row.owner is not None else row.pair) for row in rows}
    )
    return sum(count > 1 for count in homes.values())

"""A request bent at one place: something left out, said twice, swapped, or taken from another request."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace
from random import Random
from typing import Any

from secfed.ids import MemberIndex
from secfed.rounds.exchange import Ask, Told
from secfed.secagg.messages import ConfirmRequest, Request


def bent(random: Random, request: Request, earlier: Iterable[Told]) -> Request:
    """Another request of the same kind, which nobody needs to have said."""
    if isinstance(request, ConfirmRequest):
        return ConfirmRequest(_bent_set(random, request.survivors))
    name = random.choice([field.name for field in fields(request)])
    others = [told.request for told in earlier if isinstance(told, Ask)]
    values = [getattr(other, name) for other in others if type(other) is type(request)]
    value: Any = getattr(request, name)
    if isinstance(value, tuple) and value and random.random() < 0.7:
        return replace(request, **{name: _bent_list(random, value, values)})
    return replace(request, **{name: random.choice(values)}) if values else request


def _bent_list(random: Random, items: tuple[Any, ...], others: list[tuple[Any, ...]]) -> tuple[Any, ...]:
    """An entry left out, said twice, exchanged with one of before, or all in another order."""
    at = random.randrange(len(items))
    match random.randrange(4):
        case 0:
            return items[:at] + items[at + 1 :]
        case 1:
            return items[: at + 1] + items[at:]
        case 2:
            return tuple(random.sample(items, len(items)))
        case _:
            foreign = [entry for other in others for entry in other]
            return (*items[:at], random.choice(foreign), *items[at + 1 :]) if foreign else items


def _bent_set(random: Random, members: tuple[MemberIndex, ...]) -> tuple[MemberIndex, ...]:
    """One member more, one less, or one for another."""
    chosen = set(members)
    if random.random() < 0.7 and chosen:
        chosen.discard(random.choice(members))
    if random.random() < 0.5:
        chosen.add(MemberIndex(random.randrange(len(members) + 2)))
    return tuple(sorted(chosen))

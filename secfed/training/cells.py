"""The cells of a column: every value of one kind, or a refusal that names the rows; never a value.

Kinds are those of `secfed.training.rows`. A column has one kind in the whole file, which its first
cell decides: a file in which some prompts are texts and others chats is a mistake, and so is a
thumb that is sometimes a word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from secfed.training.rows import Kind, Message, Value

__all__ = ["MEANING", "Faults", "as_label", "one_kind"]

Faults = list[tuple[int, str]]
"""Row indices, from 0, each with what is wrong there."""

MEANING: Final[Mapping[Kind, str]] = {
    "text": "text",
    "label": "text or a whole number",
    "bool": "true or false",
    "messages": "a list of messages",
}
"""Kinds in words."""

_MESSAGE_KEYS: Final = ("role", "content")


class _Unfit(Exception):
    """What is wrong with a cell."""


def one_kind(values: Sequence[object], kinds: Sequence[Kind]) -> tuple[tuple[Value, ...], Kind, Faults]:
    """Hold a column against the kinds it may have.

    Args:
        values: The cells as a reader gave them.
        kinds: What the column may hold, from `COLUMN_KINDS` or a `Format`.

    Returns:
        The cells, those at fault left out; the column's kind; the faults, by row.
    """
    found = next((likely for value in values if (likely := _kind_of(value, kinds)) is not None), None)
    kind = kinds[0] if found is None else found
    wanted = kinds if found is None else (found,)
    cells: list[Value] = []
    faults: Faults = []
    for row, value in enumerate(values):
        try:
            cells.append(_cell(value, kind, wanted))
        except _Unfit as unfit:
            faults.append((row, str(unfit)))
    return tuple(cells), kind, faults


def as_label(values: Sequence[object]) -> tuple[tuple[str, ...], Faults]:
    """A column of names, such as the persons': texts, or whole numbers read as their digits."""
    cells, _, faults = one_kind(values, ("label",))
    return tuple(str(cell) for cell in cells), faults


def _kind_of(value: object, kinds: Sequence[Kind]) -> Kind | None:
    """The kind that a value looks like, out of those allowed."""
    if isinstance(value, bool):
        likely: tuple[Kind, ...] = ("bool",)
    elif isinstance(value, str):
        likely = ("text", "label")
    elif isinstance(value, int):
        likely = ("label",)
    elif isinstance(value, list):
        likely = ("messages",)
    else:
        likely = ()
    return next((kind for kind in likely if kind in kinds), None)


def _cell(value: object, kind: Kind, wanted: Sequence[Kind]) -> Value:
    """A value of this kind."""
    if value is None or value == "":
        raise _Unfit("no value")
    if _kind_of(value, (kind,)) is None:
        raise _Unfit(
            f"{type(value).__name__} where {' or '.join(MEANING[each] for each in wanted)} is needed"
        )
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _filled(value)
    return _messages(value) if isinstance(value, list) else str(value)


def _filled(text: str) -> str:
    """A text that says something."""
    if not text.strip():
        raise _Unfit("blank text")
    return text


def _messages(turns: Sequence[object]) -> tuple[Message, ...]:
    """A chat; keys without a value are those that a reader added to make all rows alike."""
    if not turns:
        raise _Unfit("an empty list of messages")
    messages = []
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, dict):
            raise _Unfit(f"message {number}: {type(turn).__name__} where role and content are needed")
        said = {key: value for key, value in turn.items() if value is not None}
        if not said.keys() <= set(_MESSAGE_KEYS):  # the key is part of the row, and no name of it is told
            raise _Unfit(f"message {number}: another key beside role and content is not covered")
        for key in _MESSAGE_KEYS:
            text = said.get(key)
            if not isinstance(text, str) or not text.strip():
                what = "no" if text is None or isinstance(text, str) else f"{type(text).__name__} as"
                raise _Unfit(f"message {number}: {what} {key}")
        messages.append(Message(said["role"], said["content"]))
    return tuple(messages)

"""What rows of data look like: the formats of every trainer, as column names and kinds of values. No torch.

Names and shapes are those of the TRL library: a prompt, completion, chosen or rejected response is a text
or a list of chat messages; a whole conversation stands in `messages`; a thumb up or down is a boolean.
Two responses may begin with their prompt where no column holds it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from secfed.aggregation.spec import Trainer

__all__ = [
    "COLUMN_KINDS", "FORMATS", "PAIRS", "PROMPT_COMPLETION",
    "Format", "Kind", "Message", "Row", "Value", "with_prompt",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat; who speaks, and what."""

    role: str
    content: str


Value: TypeAlias = str | bool | tuple[Message, ...]
"""One cell: a text, a thumb, or messages in order."""

Row: TypeAlias = Mapping[str, Value]
"""One row by the trainer's column names."""

Kind: TypeAlias = Literal["text", "label", "bool", "messages"]
"""What a cell may hold: text that is not blank; a class name (text, or a whole number read as its digits);
a boolean; at least one message, each with a role and a content of text."""

Format: TypeAlias = Mapping[str, tuple[Kind, ...]]
"""Columns that a row needs, with the kinds that each may have; all rows of a file have the same one."""

_SPOKEN: Final[tuple[Kind, ...]] = ("text", "messages")

PROMPT_COMPLETION: Final[Format] = MappingProxyType({"prompt": _SPOKEN, "completion": _SPOKEN})
"""A prompt and what follows it."""

PAIRS: Final[tuple[Format, ...]] = (
    MappingProxyType({"prompt": _SPOKEN, "chosen": _SPOKEN, "rejected": _SPOKEN}),
    MappingProxyType({"chosen": _SPOKEN, "rejected": _SPOKEN}),
)
"""Two responses to a prompt; without a column for it, the prompt is what both begin with (`with_prompt`)."""

FORMATS: Final[Mapping[Trainer, tuple[Format, ...]]] = MappingProxyType(
    {
        "classify": ({"text": ("text",), "label": ("label",)},),
        "sft": ({"messages": ("messages",)}, PROMPT_COMPLETION),
        "dpo": PAIRS,
        "kto": ({"prompt": _SPOKEN, "completion": _SPOKEN, "label": ("bool",)},),
    }
)
"""Formats of every trainer; of several, the first whose columns a file has."""

COLUMN_KINDS: Final[Format] = MappingProxyType(
    {
        "text": ("text",),
        "label": ("label", "bool"),
        "messages": ("messages",),
        "prompt": _SPOKEN,
        "completion": _SPOKEN,
        "chosen": _SPOKEN,
        "rejected": _SPOKEN,
    }
)
"""Every column that some trainer reads, with all kinds it may have: files are held to this, whatever a plan
asks."""


def with_prompt(pair: Row) -> Row:
    """A row of `PAIRS` with its prompt, which may stand at the beginning of both responses.

    The rule is TRL's (`extract_prompt`): the prompt is what both begin with, characters of texts or turns
    of chats. A space before the place where texts part belongs to the responses; of two responses that do
    not part, the last character or turn of the shorter one does. (TRL 1.16 takes the prompt for all but the
    last character where texts part at once and the first ends with a space; here there is no prompt then.)

    Args:
        pair: Has `chosen` and `rejected`, and perhaps `prompt`. One of each kind gets an empty prompt.
    """
    if "prompt" in pair:
        return pair
    match pair["chosen"], pair["rejected"]:
        case (str() as chosen, str() as rejected):
            end = _common(chosen, rejected)
            if end and chosen[end - 1] == " " and chosen[end] != rejected[end]:
                end -= 1
            return {"prompt": chosen[:end], "chosen": chosen[end:], "rejected": rejected[end:]}
        case (tuple() as chosen, tuple() as rejected):
            end = _common(chosen, rejected)
            return {"prompt": chosen[:end], "chosen": chosen[end:], "rejected": rejected[end:]}
        case _:
            return {"prompt": "", **pair}


def _common(one: Sequence[object], other: Sequence[object]) -> int:
    """How many items two sequences begin with together; each keeps at least one."""
    shortest = min(len(one), len(other))
    parted = (place for place in range(shortest) if one[place] != other[place])
    return next(parted, max(shortest - 1, 0))

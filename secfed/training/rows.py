"""What rows of data look like: the formats of every trainer, as column names and kinds of values. No torch.

Names and shapes are those of the TRL library: a prompt, completion, chosen or rejected response is a text
or a list of chat messages; a whole conversation stands in `messages`; a thumb up or down is a boolean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from secfed.aggregation.spec import Trainer

__all__ = ["COLUMN_KINDS", "FORMATS", "PROMPT_COMPLETION", "Format", "Kind", "Message", "Row", "Value"]


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

FORMATS: Final[Mapping[Trainer, tuple[Format, ...]]] = MappingProxyType(
    {
        "classify": ({"text": ("text",), "label": ("label",)},),
        "sft": ({"messages": ("messages",)}, PROMPT_COMPLETION),
        "dpo": ({"prompt": _SPOKEN, "chosen": _SPOKEN, "rejected": _SPOKEN},),
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

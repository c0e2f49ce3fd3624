"""The kinds of training there are, by the names that job files, plans, policies and commands use."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias, get_args

from secfed.errors import ConfigError

__all__ = ["TRAINERS", "Trainer", "trainer_of"]

Trainer: TypeAlias = Literal["classify", "sft", "dpo", "kto"]
"""An encoder learns classes; or a causal language model learns completions, from preferred and rejected
ones, or from thumbs up and down."""

TRAINERS: Final[tuple[Trainer, ...]] = get_args(Trainer)
"""All of them, in the order in which people are told of them."""


def trainer_of(text: str) -> Trainer:
    """The trainer that a person names by `--trainer`.

    Raises:
        ConfigError: There is none of that name.
    """
    found = next((each for each in TRAINERS if each == text), None)
    if found is None:
        raise ConfigError(f"--trainer is one of {', '.join(TRAINERS)}, not {text!r}")
    return found

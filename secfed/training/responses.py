"""Prompts and responses as tokens, texts and chats alike, and their log-likelihood under a model.

Chats go through the base model's own chat template, turn by turn: what the template writes up to
an assistant's turn must be the beginning of what it writes including that turn, so that the tokens
of every turn are known. No template needs generation marks for that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import jinja2
import torch
from torch import Tensor, nn

from secfed.errors import ConfigError, DataError
from secfed.training.rows import Message, Value
from secfed.training.task import IGNORED, Example, UnlearnableError, pad

__all__ = ["Responses", "collate", "log_likelihoods"]

ASSISTANT = "assistant"
"""Role whose turns are learnt."""

_PROBE = tuple(
    Message(role, text)
    for role, text in (("user", "one"), (ASSISTANT, "two"), ("user", "three"), (ASSISTANT, "four"))
)
"""A conversation that every template should be able to write."""

_TEMPLATE_FAULTS = (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError)
"""What a template, which is a program, can raise about a conversation that it does not like."""


class Responses:
    """Writes a prompt and what follows it as one sequence in which only the response counts.

    Args:
        tokenizer: The base model's tokenizer.
        max_length: Longest sequence in tokens. What is too long loses its start first, then the
            end of its last response.
    """

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self._tokenizer = tokenizer
        self._max_length = max_length

    def response(self, prompt: Value, response: Value) -> Example:
        """A prompt with one response: two texts, of which the second ends with the end-of-text token,
        or two lists of messages, of which the assistant's turns in the second count.

        Raises:
            UnlearnableError: There is no assistant's turn, or the template does not write this chat.
            DataError, ConfigError: See `Task.example`.
        """
        if isinstance(prompt, str) and isinstance(response, str):
            opening = self._tokenizer(prompt)["input_ids"]
            closing = self._tokenizer(response, add_special_tokens=False)["input_ids"]
            return self._cut([(opening, False), ([*closing, self._tokenizer.eos_token_id], True)])
        if isinstance(prompt, tuple) and isinstance(response, tuple):
            return self._chat((*prompt, *response), first=len(prompt))
        raise DataError("a prompt and its responses must be all texts, or all lists of messages")

    def conversation(self, messages: Sequence[Message]) -> Example:
        """A whole conversation, of which every assistant's turn counts; errors as `response`."""
        return self._chat(messages, first=0)

    def _chat(self, messages: Sequence[Message], *, first: int) -> Example:
        """Messages of which the assistant's turns from `first` on count."""
        pieces = [
            (self._tokenizer(text, add_special_tokens=False)["input_ids"], counts)
            for text, counts in _pieces(self._template, messages, first)
        ]
        return self._cut(pieces)

    @cached_property
    def _template(self) -> Any:
        """The tokenizer, once its template is known to write a plain conversation turn by turn."""
        hint = "Give prompt and completion as texts, or train an instruction-tuned base model."
        if not self._tokenizer.chat_template:
            raise ConfigError("the base model has no chat template, and rows hold messages", hint=hint)
        try:
            list(_pieces(self._tokenizer, _PROBE, 0))
        except UnlearnableError as problem:
            raise ConfigError(
                f"the base model's chat template cannot be used: {problem}", hint=hint
            ) from problem
        return self._tokenizer

    def _cut(self, pieces: Sequence[tuple[Sequence[int], bool]]) -> Example:
        """One sequence that fits, from pieces of tokens that alternate between context and response."""
        tokens = tuple(chain.from_iterable(piece for piece, _ in pieces))
        targets = tuple(
            chain.from_iterable(piece if counts else [IGNORED] * len(piece) for piece, counts in pieces)
        )
        last = len(pieces[-1][0])
        kept = min(last, max(self._max_length - 1, 1))  # one token of context predicts its first
        end = len(tokens) - last + kept
        start = max(0, end - self._max_length)
        return Example(tokens[start:end], targets[start:end], cut=len(tokens) - (end - start))


def _pieces(tokenizer: Any, messages: Sequence[Message], first: int) -> Iterator[tuple[str, bool]]:
    """What the template writes, cut before and after every assistant's turn from `first` on."""
    turns = [place for place in range(first, len(messages)) if messages[place].role == ASSISTANT]
    if not turns:
        raise UnlearnableError(f"no turn of role {ASSISTANT!r} to learn from")
    chat = [{"role": message.role, "content": message.content} for message in messages]
    done = ""
    for turn in turns:
        try:
            opened = tokenizer.apply_chat_template(chat[:turn], tokenize=False, add_generation_prompt=True)
            closed = tokenizer.apply_chat_template(chat[: turn + 1], tokenize=False)
        except _TEMPLATE_FAULTS as problem:
            raise UnlearnableError(f"the chat template refuses it ({type(problem).__name__})") from None
        if not (opened.startswith(done) and closed.startswith(opened)):
            raise UnlearnableError("the chat template writes a turn differently once another one follows")
        yield opened[len(done) :], False
        yield closed[len(opened) :], True
        done = closed


def collate(examples: Sequence[Example], padding: int, width: int | None = None) -> dict[str, Tensor]:
    """input_ids, attention_mask and targets, each of shape (records, width or longest)."""
    return {
        "input_ids": pad([example.tokens for example in examples], padding, width),
        "attention_mask": pad([[1] * len(example.tokens) for example in examples], 0, width),
        "targets": pad([example.targets for example in examples], IGNORED, width),
    }


def log_likelihoods(module: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Log-likelihood of every response, in nats, and the tokens it is summed over; shapes (records,).

    Args:
        batch: Holds what `collate` makes.
    """
    output = module(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
    logits, targets = output.logits[:, :-1], batch["targets"][:, 1:]
    losses = nn.functional.cross_entropy(
        logits.transpose(1, 2).float(), targets, ignore_index=IGNORED, reduction="none"
    )
    return -losses.sum(dim=1), (targets != IGNORED).sum(dim=1).to(torch.float32)

"""Texts and chats as tokens: which of them count, what is cut, which templates and rows are refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import transformers

from secfed.errors import ConfigError, DataError
from secfed.training.assets import SMOLLM2_ID
from secfed.training.responses import Responses
from secfed.training.rows import Message
from secfed.training.sft import Completions
from secfed.training.task import IGNORED, NOTHING, UnlearnableError

USER, REPLY, END = 61, 62, 1
"""Tokens of the toy template: w58 and w59 open a turn, <eos> closes it."""


def chat(*turns: str) -> tuple[Message, ...]:
    """Turns of user and assistant in turn, the user first."""
    return tuple(Message(("user", "assistant")[place % 2], text) for place, text in enumerate(turns))


@pytest.fixture
def tokenizer(base_folder: Callable[..., Path]) -> Any:
    return transformers.AutoTokenizer.from_pretrained(base_folder("llama"))


def test_a_completion_in_messages_by_hand(tokenizer: Any) -> None:
    """The prompt with the opening of the reply is context; the reply and its end count."""
    example = Responses(tokenizer, 24).response(chat("w0 w1"), (Message("assistant", "w2"),))
    assert example.tokens == (USER, 3, 4, END, REPLY, 5, END)
    assert example.targets == (*[IGNORED] * 5, 5, END)
    assert example.cut == 0


def test_every_turn_of_the_assistant_counts(tokenizer: Any) -> None:
    example = Responses(tokenizer, 24).conversation(chat("w0", "w1", "w2", "w3 w4"))
    assert example.tokens == (USER, 3, END, REPLY, 4, END, USER, 5, END, REPLY, 6, 7, END)
    assert example.targets == (*[IGNORED] * 4, 4, END, *[IGNORED] * 4, 6, 7, END)


def test_what_follows_the_last_reply_is_left_out(tokenizer: Any) -> None:
    responses = Responses(tokenizer, 24)
    assert responses.conversation(chat("w0", "w1", "w2")) == responses.conversation(chat("w0", "w1"))


def test_earlier_replies_of_the_prompt_do_not_count(tokenizer: Any) -> None:
    example = Responses(tokenizer, 24).response(chat("w0", "w1", "w2"), (Message("assistant", "w3"),))
    assert [token for token in example.targets if token != IGNORED] == [6, END]


@pytest.mark.parametrize(
    ("length", "tokens", "targets"),
    [
        (8, (6, END, REPLY, 7, 8, END), ()),
        (5, (REPLY, 7, 8, END), ()),
        (3, (REPLY, 7, 8), (IGNORED, 7, 8)),
        (2, (REPLY, 7), (IGNORED, 7)),
        (1, (7,), (7,)),
    ],
)
def test_too_long_loses_the_start_then_the_end_of_the_last_reply(
    tokenizer: Any, length: int, tokens: Sequence[int], targets: Sequence[int]
) -> None:
    example = Responses(tokenizer, length).conversation(chat("w0", "w1", "w3", "w4 w5"))
    assert len(example.tokens) == length
    assert example.tokens[-len(tokens) :] == tokens
    assert example.cut == 13 - length
    if targets:
        assert example.targets == targets


def test_texts_and_messages_do_not_mix(tokenizer: Any) -> None:
    responses = Responses(tokenizer, 24)
    for prompt, reply in (("w0", chat("w1")), (chat("w0"), "w1")):
        with pytest.raises(DataError, match="all texts, or all lists"):
            responses.response(prompt, reply)


def test_a_chat_that_cannot_be_learnt_from_is_nothing_and_named_to_its_owner(tokenizer: Any) -> None:
    """In training it has a loss of zero; `data check` says what is the matter."""
    task = Completions(tokenizer, 24)
    unknown_role = (Message("user", "w0"), Message("tool", "w1"), Message("assistant", "w2"))
    for messages, expected in (
        (chat("w0"), "no turn of role 'assistant'"),
        (unknown_role, "the chat template refuses it"),
    ):
        row = {"messages": messages}
        assert task.example(row) == NOTHING
        with pytest.raises(UnlearnableError, match=expected):
            task.check(row)
    task.check({"messages": chat("w0", "w1")})


def test_a_model_without_a_template_takes_texts_only(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    responses = Responses(tokenizer, 24)
    assert responses.response("w0", "w1").tokens == (3, 4, END)
    with pytest.raises(ConfigError, match="no chat template"):
        responses.conversation(chat("w0", "w1"))


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{% for m in messages[-2:] %}{{ m['content'] }} {% endfor %}", "differently once another"),
        ("{{ raise_exception('never') }}", "refuses it"),
        ("{% for m in messages %}{{ m['nothing']['x'] }}{% endfor %}", "refuses it"),
    ],
)
def test_a_template_that_rewrites_earlier_turns_is_refused(
    tokenizer: Any, template: str, expected: str
) -> None:
    """Found on a plain conversation, before any row was looked at."""
    tokenizer.chat_template = template
    with pytest.raises(ConfigError, match=expected):
        Responses(tokenizer, 24).conversation(chat("w0", "w1"))


def test_a_row_that_the_template_rewrites_is_nothing(tokenizer: Any) -> None:
    """Some templates shorten earlier turns by their content; such a row alone is left out."""
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }} "
        "{% if loop.last %}{{ m['content'] }}{% else %}{{ m['content'].split('w9')[0] }}{% endif %} "
        "{% endfor %}{% if add_generation_prompt %}assistant {% endif %}"
    )
    task = Completions(tokenizer, 24)
    assert task.example({"messages": chat("w0", "w1", "w2", "w3")}) != NOTHING
    assert task.example({"messages": chat("w0", "w9 w1", "w2", "w3")}) == NOTHING


def test_the_chat_models_own_template(real_model: Callable[[str], Path]) -> None:
    """SmolLM2: the same tokens as the whole conversation at once, and replies with their ends count."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(real_model(SMOLLM2_ID))
    messages = chat("What is LoRA?", "A small adapter.", "And FFA?", "Half of one.")
    example = Responses(tokenizer, 256).conversation(messages)
    spoken = [{"role": message.role, "content": message.content} for message in messages]
    assert list(example.tokens) == tokenizer.apply_chat_template(spoken)["input_ids"]
    counted = tokenizer.decode([token for token in example.targets if token != IGNORED])
    assert counted == "A small adapter.<|im_end|>\nHalf of one.<|im_end|>\n"

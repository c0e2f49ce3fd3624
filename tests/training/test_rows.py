"""A prompt that both responses of a pair begin with is found as the TRL library finds it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from trl import extract_prompt

from secfed.training.rows import Message, Value, with_prompt

TEXTS = st.text("ab ", min_size=1, max_size=7)
TURNS = st.builds(Message, st.sampled_from(["user", "assistant"]), st.sampled_from(["x", "y"]))
CHATS = st.lists(TURNS, min_size=1, max_size=5).map(tuple)


def plain(value: Value) -> Any:
    """A cell as TRL has it."""
    return [asdict(turn) for turn in value] if isinstance(value, tuple) else value


def assert_as_trl(chosen: Value, rejected: Value) -> None:
    found = with_prompt({"chosen": chosen, "rejected": rejected})
    theirs = extract_prompt({"chosen": plain(chosen), "rejected": plain(rejected)})
    assert {name: plain(value) for name, value in found.items()} == theirs


@given(TEXTS, TEXTS, TEXTS)
def test_of_texts(prompt: str, one: str, other: str) -> None:
    for chosen, rejected in ((prompt + one, prompt + other), (one, other), (prompt, prompt + other)):
        if chosen[0] == rejected[0] or chosen[-1] != " ":  # else TRL looks at the end of the first text
            assert_as_trl(chosen, rejected)


@given(CHATS, CHATS, CHATS)
def test_of_chats(prompt: tuple[Message, ...], one: tuple[Message, ...], other: tuple[Message, ...]) -> None:
    for chosen, rejected in ((prompt + one, prompt + other), (one, other), (prompt, prompt + other)):
        assert_as_trl(chosen, rejected)


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("It is blue.", "It is green.", "It is"),  # the space goes with the responses
        ("blue", "green", ""),
        ("green ", "blue", ""),  # here TRL would take all of "green"
        ("same", "same", "sam"),
        ("same", "same again", "sam"),
    ],
)
def test_by_hand(chosen: str, rejected: str, prompt: str) -> None:
    found = with_prompt({"chosen": chosen, "rejected": rejected})
    assert found["prompt"] == prompt
    assert (prompt + str(found["chosen"]), prompt + str(found["rejected"])) == (chosen, rejected)


@given(TEXTS, TEXTS)
def test_a_stated_prompt_is_left_alone(prompt: str, response: str) -> None:
    assume(prompt != response)
    row = {"prompt": prompt, "chosen": prompt + response, "rejected": prompt}
    assert with_prompt(row) == row


def test_a_text_and_a_chat_share_no_prompt() -> None:
    """The trainer then says that kinds do not fit."""
    assert with_prompt({"chosen": "x", "rejected": (Message("user", "x"),)})["prompt"] == ""

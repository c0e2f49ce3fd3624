"""Signatures bind the bytes, the label, the context, the sender and the recipient."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secfed.crypto.labels import Label
from secfed.crypto.signing import SigningKey
from secfed.errors import AuthenticationError, PeerError, RosterError
from secfed.identity import signed
from secfed.identity.signed import Signed

KEY = SigningKey.from_seed(bytes(32))
ADDRESS: dict[str, Any] = {"context": b"h" * 32, "sender": "hosp-a", "recipient": "hosp-b"}


def test_the_covered_bytes_worked_by_hand() -> None:
    covered = signed.message(Label.SIGN_CONFIRM, context=b"ab", sender="x", recipient=None, statement=b"\x00")
    assert covered == (
        b"secfed/1/sign/confirm\0\0\0\0\0\0\0\x02ab\0\0\0\0\0\0\0\x01x\0\0\0\0\0\0\0\x00\0\0\0\0\0\0\0\x01\0"
    )


def test_what_was_signed_is_opened() -> None:
    item = signed.sign(KEY, Label.SIGN_ADVERT, statement=b"keys", **ADDRESS)
    assert signed.open_(item, KEY.public, Label.SIGN_ADVERT, **ADDRESS) == b"keys"


@pytest.mark.parametrize(
    "change",
    [
        {"context": b"g" * 32},
        {"context": b""},
        {"sender": "hosp-c"},
        {"recipient": "hosp-c"},
        {"recipient": None},
    ],
    ids=str,
)
def test_another_context_or_address_is_refused(change: dict[str, Any]) -> None:
    item = signed.sign(KEY, Label.SIGN_ADVERT, statement=b"keys", **ADDRESS)
    address = {**ADDRESS, **change}
    with pytest.raises(PeerError, match="does not verify") as refused:
        signed.open_(item, KEY.public, Label.SIGN_ADVERT, **address)
    assert refused.value.culprits == (address["sender"],)


def test_another_label_key_statement_or_signature_is_refused() -> None:
    item = signed.sign(KEY, Label.SIGN_ADVERT, statement=b"keys", **ADDRESS)
    other = SigningKey.from_seed(bytes([1] * 32))
    with pytest.raises(PeerError):
        signed.open_(item, KEY.public, Label.SIGN_BUNDLE, **ADDRESS)
    with pytest.raises(PeerError):
        signed.open_(item, other.public, Label.SIGN_ADVERT, **ADDRESS)
    for forged in (
        replace(item, statement=b"keyz"),
        replace(item, signature=bytes(64)),
        replace(item, signature=item.signature + b"\0"),
        Signed(b"", b""),
    ):
        with pytest.raises(PeerError):
            signed.open_(forged, KEY.public, Label.SIGN_ADVERT, **ADDRESS)


@given(
    st.lists(st.tuples(st.binary(max_size=3), st.text("ab", max_size=2), st.binary(max_size=3)), max_size=6)
)
def test_no_two_messages_have_the_same_bytes(parts: list[tuple[bytes, str, bytes]]) -> None:
    """Fields cannot run into each other."""
    covered = {
        (label, context, sender, recipient, statement): signed.message(
            label, context=context, sender=sender, recipient=recipient, statement=statement
        )
        for label in (Label.SIGN_ROSTER, Label.SIGN_MANIFEST)
        for context, sender, statement in parts
        for recipient in ("a", "ab")
    }
    assert len(set(covered.values())) == len(covered)


def test_no_label_begins_another() -> None:
    """A label has no length before it, so none may be another's beginning."""
    for first, second in itertools.permutations(Label, 2):
        assert not second.value.startswith(first.value + b"\0")
        assert b"\0" not in first.value


def test_a_statement_is_not_printed() -> None:
    assert "keys" not in repr(signed.sign(KEY, Label.SIGN_ADVERT, statement=b"keys", **ADDRESS))


def test_a_text_carries_its_signature_in_the_last_line() -> None:
    data = signed.sign_text(KEY, Label.SIGN_ROSTER, b'{"a": 1}\n')
    text, line = data.splitlines(keepends=True)
    assert text == b'{"a": 1}\n'
    assert line.startswith(b"signature: ")
    assert signed.open_text(data, KEY.public, Label.SIGN_ROSTER, what="it") == text
    assert signed.unverified_text(data, what="it") == text


@given(position=st.integers(0, 107), bit=st.integers(0, 7))
def test_every_flipped_bit_of_a_text_is_refused(position: int, bit: int) -> None:
    data = bytearray(signed.sign_text(KEY, Label.SIGN_ROSTER, b'{"a": 1}\n'))
    assert len(data) == 109
    data[position] ^= 1 << bit
    with pytest.raises(RosterError):
        signed.open_text(bytes(data), KEY.public, Label.SIGN_ROSTER, what="the text")


@pytest.mark.parametrize("data", [b"", b"\n", b'{"a": 1}\n', b"signature: AAAA\n"])
def test_a_text_without_signature_is_refused_in_the_callers_class(data: bytes) -> None:
    with pytest.raises(AuthenticationError, match="the invite does not end with a signature line"):
        signed.open_text(data, KEY.public, Label.SIGN_INVITE, what="the invite", error=AuthenticationError)


def test_a_text_of_another_kind_is_refused() -> None:
    data = signed.sign_text(KEY, Label.SIGN_ROSTER, b"{}\n")
    with pytest.raises(RosterError, match="another key, or changed"):
        signed.open_text(data, KEY.public, Label.SIGN_INVITE, what="the invite")

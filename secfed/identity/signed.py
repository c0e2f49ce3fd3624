"""Exact bytes and a signature: under which label, in which context, from whom, to whom.

What is signed is `label || lp(context) || lp(sender) || lp(recipient) || lp(statement)`, lp
being a length before the field, so no two different messages have the same bytes and none can be
replayed under another meaning, attempt or address. `context` is the manifest's digest h, and
before there is one the digest of what stands in its place. A statement is verified as the
bytes that came, and only then parsed; nothing is serialised again to be verified.

Signature: Ed25519, RFC 8032.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from secfed.crypto import kdf, signing
from secfed.crypto.labels import Label
from secfed.crypto.signing import SigningKey
from secfed.errors import PeerError, RosterError, SecfedError
from secfed.identity.fields import from_base64, to_base64
from secfed.ids import ClientId

__all__ = ["Signed", "message", "open_", "open_text", "sign", "sign_text", "unverified_text"]

_SIGNATURE_LINE = b"signature: "
_SIGNATURE_LINE_BYTES = len(_SIGNATURE_LINE) + 88 + 1
"""64 bytes are 88 characters of base64; then the newline."""


@dataclass(frozen=True, slots=True)
class Signed:
    """A statement's exact bytes and the signature over them, not yet verified."""

    statement: bytes = field(repr=False)
    signature: bytes = field(repr=False)


def message(label: Label, *, context: bytes, sender: str, recipient: str | None, statement: bytes) -> bytes:
    """The bytes that a signature covers.

    Args:
        label: What the statement is.
        context: Where it belongs, empty for a text that stands by itself.
        sender: Whose statement it is; empty only for such a text.
        recipient: For whom, or None for all.
        statement: Its exact bytes.
    """
    return label.value + kdf.lengthed(context, sender.encode(), (recipient or "").encode(), statement)


def sign(
    key: SigningKey, label: Label, *, context: bytes, sender: str, recipient: str | None, statement: bytes
) -> Signed:
    """Sign a statement; arguments as `message`."""
    covered = message(label, context=context, sender=sender, recipient=recipient, statement=statement)
    return Signed(statement, key.sign(covered))


def open_(
    signed: Signed, public: bytes, label: Label, *, context: bytes, sender: str, recipient: str | None
) -> bytes:
    """Verify a statement and return its bytes; the only way to them that may be parsed.

    Args:
        signed: As received.
        public: The sender's key as the roster has it, 32 bytes.
        label: As `message`, like the rest.

    Raises:
        PeerError: The signature is not the sender's, or over something else; the sender is named.
    """
    covered = message(label, context=context, sender=sender, recipient=recipient, statement=signed.statement)
    if not signing.verify(public, covered, signed.signature):
        raise PeerError(
            f"the signature under a statement of {sender} does not verify ({label.name.lower()})",
            culprits=(ClientId(sender),),
        )
    return signed.statement


def sign_text(key: SigningKey, label: Label, text: bytes) -> bytes:
    """Sign a text file: its bytes, then the signature in a last line."""
    if not text.endswith(b"\n"):
        raise ValueError("a text ends with a newline")
    signature = sign(key, label, context=b"", sender="", recipient=None, statement=text).signature
    return text + _SIGNATURE_LINE + to_base64(signature).encode() + b"\n"


def open_text(
    data: bytes, public: bytes, label: Label, *, what: str, error: type[SecfedError] = RosterError
) -> bytes:
    """Verify a text file and return the bytes before its signature line.

    Args:
        data: The whole file.
        public: The key that must have signed it, 32 bytes.
        label: What the text is.
        what: Its name in errors.
        error: The class to raise.

    Raises:
        SecfedError: As `error`: no signature line, another key's signature, or the text was changed.
    """
    text, signature = _part(data, what, error)
    covered = message(label, context=b"", sender="", recipient=None, statement=text)
    if not signing.verify(public, covered, signature):
        raise error(f"{what}: the signature does not verify: signed by another key, or changed")
    return text


def unverified_text(data: bytes, *, what: str, error: type[SecfedError] = RosterError) -> bytes:
    """The bytes before the signature line, for a text that brings the key it must then be opened with."""
    return _part(data, what, error)[0]


def _part(data: bytes, what: str, error: type[SecfedError]) -> tuple[bytes, bytes]:
    """Part a text from the signature in its last line."""
    text, line = data[:-_SIGNATURE_LINE_BYTES], data[-_SIGNATURE_LINE_BYTES:]
    if not text.endswith(b"\n") or not line.startswith(_SIGNATURE_LINE) or not line.endswith(b"\n"):
        raise error(f"{what} does not end with a signature line: it is cut off, or not such a file")
    try:
        signature = from_base64(line[len(_SIGNATURE_LINE) : -1].decode("ascii"), signing.SIGNATURE_BYTES)
    except ValueError as problem:
        raise error(f"{what}: the signature line cannot be read: {problem}") from problem
    return text, signature

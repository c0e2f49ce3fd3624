"""What the store's tests share: a chain digest, a signing pair, and a barrier that stops the program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import pytest

from secfed.crypto import kdf, signing
from secfed.crypto.labels import Label
from secfed.crypto.signing import SigningKey
from secfed.ids import Digest


class Crash(BaseException):
    """The program ends here: no handler of the code under test may catch it."""


@dataclass
class Stop:
    """A barrier that raises `Crash` at one named step, and remembers all steps."""

    at: str = ""
    seen: list[str] = field(default_factory=list)

    def __call__(self, what: str) -> None:
        self.seen.append(what)
        if what == self.at:
            raise Crash(what)


@pytest.fixture
def stop() -> Stop:
    return Stop()


@pytest.fixture
def crash() -> type[BaseException]:
    return Crash


@pytest.fixture
def line_digest() -> Callable[[bytes], Digest]:
    return partial(kdf.digest, Label.JOURNAL_ENTRY)


@dataclass(frozen=True)
class Pen:
    """A signer and the verifier that goes with it."""

    key: SigningKey

    def sign(self, line: bytes) -> bytes:
        return self.key.sign(line)

    def check(self, line: bytes, signature: bytes) -> bool:
        return signing.verify(self.key.public, line, signature)


@pytest.fixture
def pen() -> Pen:
    return Pen(SigningKey.from_seed(bytes(range(32))))


@pytest.fixture
def other_pen() -> Pen:
    return Pen(SigningKey.from_seed(bytes(range(1, 33))))

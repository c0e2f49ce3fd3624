"""Share a 32-byte secret so that any t of n shares give it back, and t - 1 say nothing.

Secrets and shares are elements of GF(2^255 - 19), 32 bytes big-endian, always below the prime:
a share in another spelling is refused, so equal shares are equal bytes. Only secrets drawn by
`random_secret` are shared; arbitrary bytes would not fit below the prime.

Python's integers do not run in constant time. That is accepted here: shares are computed once,
locally, from fresh secrets of one attempt, and no peer can repeat the measurement.

Source: Shamir 1979, "How to share a secret".
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from math import prod

from secfed.errors import PeerError

__all__ = ["PRIME", "SECRET_BYTES", "Weights", "check_share", "evaluate", "random_secret", "split"]

PRIME = 2**255 - 19
"""The field's size: the largest prime below 2^255, so that rejection almost never happens."""

SECRET_BYTES = 32
"""Length of a secret and of a share, bytes."""

_TOP_BIT = 1 << 255

_UNREDUCED = 32
"""Steps of Horner's rule between two reductions: a step adds a coordinate's bits, a division costs three."""


def random_secret(entropy: Callable[[int], bytes] = os.urandom) -> bytes:
    """A uniform element of the field, by rejection sampling.

    Args:
        entropy: Uniform bytes; asked again with probability 19 / 2^255.

    Returns:
        32 bytes, big-endian, below `PRIME`.
    """
    return _random_element(entropy).to_bytes(SECRET_BYTES, "big")


def split(
    secret: bytes,
    threshold: int,
    xs: Sequence[int],
    entropy: Callable[[int], bytes] = os.urandom,
) -> list[bytes]:
    """Shares of one secret; the inverse of `Weights.combine`.

    Args:
        secret: 32 bytes below `PRIME`.
        threshold: t, exactly how many shares give the secret back.
        xs: Distinct positive x-coordinates of the holders, at least t of them.
        entropy: Uniform bytes for the t - 1 coefficients. A zero coefficient is allowed, the
            leading one included: forcing it non-zero would tell t - 1 holders something.

    Returns:
        One 32-byte share per coordinate, in the order of `xs`.

    Raises:
        ValueError: The caller's parameters make no sharing.
    """
    _check_coordinates(xs)
    if not 1 <= threshold <= len(xs):
        raise ValueError(f"a threshold of {threshold} does not fit {len(xs)} holders")
    constant = int.from_bytes(secret, "big")
    if len(secret) != SECRET_BYTES or constant >= PRIME:
        raise ValueError(f"a secret to share has {SECRET_BYTES} bytes and is below the prime")
    coefficients = [constant, *(_random_element(entropy) for _ in range(threshold - 1))]
    return [evaluate(coefficients, x).to_bytes(SECRET_BYTES, "big") for x in xs]


def evaluate(coefficients: Sequence[int], x: int, *, prime: int = PRIME) -> int:
    """The polynomial's value at x, by Horner's rule, reduced once in a while.

    Args:
        coefficients: Constant term first, each in [0, prime).
        x: Where.
        prime: The field; small ones make examples that can be checked on paper.
    """
    value = 0
    for end in range(len(coefficients), 0, -_UNREDUCED):
        for coefficient in reversed(coefficients[max(0, end - _UNREDUCED) : end]):
            value = value * x + coefficient
        value %= prime
    return value


class Weights:
    """Lagrange's coefficients at zero for one set of respondents, computed once for many secrets.

    Args:
        xs: Their distinct positive x-coordinates: exactly t of them for shares of threshold t.
            With fewer, and in general with shares that are not of one polynomial, the result is
            a wrong secret and no error; what it opens is authenticated, and says so.

    Raises:
        ValueError: The coordinates are empty, repeated or out of range.
    """

    __slots__ = ("_weights", "xs")

    def __init__(self, xs: Sequence[int], *, prime: int = PRIME) -> None:
        _check_coordinates(xs)
        self.xs = tuple(xs)
        # w_i = prod_(j != i) x_j / (x_j - x_i)
        denominators = [x * prod(other - x for other in xs if other != x) % prime for x in xs]
        numerator = prod(xs) % prime
        self._weights = [numerator * inverse % prime for inverse in _invert_all(denominators, prime)]

    def combine(self, shares: Sequence[bytes]) -> bytes:
        """The secret behind the respondents' shares; the inverse of `split`.

        Args:
            shares: 32 bytes each, in the order of `xs`.

        Returns:
            32 bytes.

        Raises:
            PeerError: A share is not 32 bytes below `PRIME`; it names the coordinate.
            ValueError: Not one share per coordinate.
        """
        if len(shares) != len(self.xs):
            raise ValueError(f"{len(shares)} shares for {len(self.xs)} coordinates")
        values = [check_share(share, x) for share, x in zip(shares, self.xs, strict=True)]
        total = sum(weight * value for weight, value in zip(self._weights, values, strict=True))
        return (total % PRIME).to_bytes(SECRET_BYTES, "big")


def check_share(share: bytes, x: int) -> int:
    """Refuse what no dealer could have made.

    Args:
        share: What a holder got or sent.
        x: Whose coordinate it is for; only the message names it.

    Returns:
        The share as a field element.

    Raises:
        PeerError: Not 32 bytes, or not below `PRIME`.
    """
    value = int.from_bytes(share, "big")
    if len(share) != SECRET_BYTES or value >= PRIME:
        raise PeerError(f"the share at x = {x} is not {SECRET_BYTES} bytes below the prime")
    return value


def _random_element(entropy: Callable[[int], bytes]) -> int:
    """255 uniform bits until they are below the prime."""
    while True:
        candidate = int.from_bytes(entropy(SECRET_BYTES), "big") % _TOP_BIT
        if candidate < PRIME:
            return candidate


def _check_coordinates(xs: Sequence[int]) -> None:
    """x = 0 would be the secret itself; a repeated x divides by zero."""
    if not xs or len(set(xs)) != len(xs) or min(xs) < 1 or max(xs) >= 1 << 32:
        raise ValueError("x-coordinates are distinct integers from 1 to 2^32 - 1, at least one")


def _invert_all(values: Sequence[int], prime: int) -> list[int]:
    """All inverses for the price of one (Montgomery's trick)."""
    prefix = [1]
    for value in values:
        prefix.append(prefix[-1] * value % prime)
    inverse = pow(prefix[-1], -1, prime)
    inverses = [0] * len(values)
    for i in range(len(values) - 1, -1, -1):
        inverses[i] = inverse * prefix[i] % prime
        inverse = inverse * values[i] % prime
    return inverses

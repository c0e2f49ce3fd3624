"""Shamir's sharing: by hand, against another implementation, exhaustively over a tiny field."""

from __future__ import annotations

import itertools
import os
from collections import Counter

import pytest
import shamirs
from hypothesis import given, settings
from hypothesis import strategies as st

from secfed.crypto import shamir
from secfed.crypto.shamir import PRIME, Weights, evaluate, random_secret, split
from secfed.errors import PeerError


def element(value: int) -> bytes:
    return value.to_bytes(32, "big")


def test_three_shares_worked_by_hand() -> None:
    """f(x) = 3 + 2x over GF(7): small enough to check on paper."""
    assert [evaluate([3, 2], x, prime=7) for x in (1, 2, 3)] == [5, 0, 2]


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 64, 100])
def test_a_long_polynomial_is_its_powers(count: int) -> None:
    """However many steps lie between two reductions, the value is the sum of c_k x^k, and below p."""
    coefficients = [(k + 2) ** 97 % PRIME for k in range(count)]
    for x in (1, 2, 1024, (1 << 32) - 1):
        expected = sum(c * pow(x, k, PRIME) for k, c in enumerate(coefficients)) % PRIME
        assert evaluate(coefficients, x) == expected


def test_weights_worked_by_hand() -> None:
    """For x = 1, 2: f(0) = 2 f(1) - f(2), whatever the line."""
    for secret, slope in ((3, 2), (10**60, 10**70), (0, PRIME - 1)):
        shares = [element((secret + slope * x) % PRIME) for x in (1, 2)]
        assert Weights([1, 2]).combine(shares) == element(secret)


def test_fewer_than_t_shares_say_nothing() -> None:
    """Over GF(7), t = 3: any two shares go with every secret equally often; zero coefficients allowed."""
    seen: dict[tuple[int, int], Counter[int]] = {}
    for secret, a, b in itertools.product(range(7), repeat=3):
        shares = evaluate([secret, a, b], 2, prime=7), evaluate([secret, a, b], 5, prime=7)
        seen.setdefault(shares, Counter())[secret] += 1
    assert len(seen) == 49
    assert all(counts == Counter(range(7)) for counts in seen.values())


@settings(deadline=None)
@given(st.data())
def test_any_t_shares_give_the_secret_back(data: st.DataObject) -> None:
    xs = data.draw(st.lists(st.integers(1, 10_000), min_size=1, max_size=12, unique=True))
    threshold = data.draw(st.integers(1, len(xs)))
    secret = element(data.draw(st.integers(0, PRIME - 1)))
    shares = dict(zip(xs, split(secret, threshold, xs), strict=True))
    chosen = data.draw(st.permutations(xs))[:threshold]
    assert Weights(chosen).combine([shares[x] for x in chosen]) == secret


def test_one_weight_vector_serves_many_secrets() -> None:
    xs = range(1, 101)
    weights = Weights(range(51, 101))
    for _ in range(5):
        secret = random_secret()
        assert weights.combine(split(secret, 50, xs)[50:]) == secret


def test_our_shares_open_with_another_implementation() -> None:
    secret = random_secret()
    xs = [1, 4, 9, 16, 25, 77]
    shares = split(secret, 4, xs)
    theirs = [shamirs.share(x, int.from_bytes(s, "big"), PRIME) for x, s in zip(xs, shares, strict=True)]
    assert shamirs.interpolate(theirs[:4]) == int.from_bytes(secret, "big")
    assert shamirs.interpolate(theirs[2:]) == int.from_bytes(secret, "big")


def test_another_implementations_shares_open_with_ours() -> None:
    secret = random_secret()
    theirs = shamirs.shares(int.from_bytes(secret, "big"), 7, modulus=PRIME, threshold=5)
    chosen = [theirs[i] for i in (6, 0, 3, 2, 5)]
    assert Weights([share.index for share in chosen]).combine([element(s.value) for s in chosen]) == secret


def test_a_wrong_share_gives_a_wrong_secret() -> None:
    secret = random_secret()
    shares = split(secret, 3, [1, 2, 3])
    shares[1] = element((int.from_bytes(shares[1], "big") + 1) % PRIME)
    assert Weights([1, 2, 3]).combine(shares) != secret


def test_one_share_too_few_gives_a_wrong_secret() -> None:
    secret = random_secret()
    shares = split(secret, 3, [1, 2, 3])
    assert Weights([1, 2]).combine(shares[:2]) != secret


@pytest.mark.parametrize(
    "share", [element(PRIME), element(PRIME + 1), b"\xff" * 32, b"", bytes(31), bytes(33)]
)
def test_a_share_that_no_dealer_made_is_refused(share: bytes) -> None:
    with pytest.raises(PeerError, match="x = 4"):
        Weights([2, 4]).combine([element(1), share])
    with pytest.raises(PeerError, match="x = 9"):
        shamir.check_share(share, 9)


def test_the_largest_element_is_accepted() -> None:
    assert shamir.check_share(element(PRIME - 1), 1) == PRIME - 1
    assert Weights([1]).combine([element(PRIME - 1)]) == element(PRIME - 1)


@pytest.mark.parametrize("xs", [[], [0], [1, 1], [1, 0, 2], [-1], [1 << 32]])
def test_coordinates_are_distinct_and_positive(xs: list[int]) -> None:
    with pytest.raises(ValueError, match="x-coordinates"):
        Weights(xs)
    with pytest.raises(ValueError, match="x-coordinates"):
        split(element(1), 1, xs)


@pytest.mark.parametrize("threshold", [0, -1, 4])
def test_a_threshold_fits_the_holders(threshold: int) -> None:
    with pytest.raises(ValueError, match="threshold"):
        split(element(1), threshold, [1, 2, 3])


@pytest.mark.parametrize("secret", [element(PRIME), b"\xff" * 32, bytes(31), bytes(33)])
def test_only_field_elements_are_shared(secret: bytes) -> None:
    with pytest.raises(ValueError, match="secret"):
        split(secret, 1, [1])


def test_shares_are_counted() -> None:
    with pytest.raises(ValueError, match="1 shares for 2"):
        Weights([1, 2]).combine([element(1)])


def test_a_secret_is_drawn_again_until_it_is_below_the_prime() -> None:
    """p, 2^255 - 1 (both refused), then a good one whose 256th bit is ignored."""
    draws = iter([element(PRIME), b"\xff" * 32, element((1 << 255) + 5)])
    assert random_secret(lambda _: next(draws)) == element(5)


def test_coefficients_come_from_the_entropy_and_may_be_zero() -> None:
    """All-zero entropy gives a constant polynomial: nothing pushes the leading coefficient off zero."""
    assert split(element(9), 3, [1, 2, 3], lambda count: bytes(count)) == [element(9)] * 3
    calls: list[int] = []

    def entropy(count: int) -> bytes:
        calls.append(count)
        return os.urandom(count)

    split(element(9), 4, [1, 2, 3, 4, 5], entropy)
    assert len(calls) >= 3
    assert set(calls) == {32}

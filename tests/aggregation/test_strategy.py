"""Strategies over small adapters: what is sent, what is refused, what the mean does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secfed.aggregation.registry import by_name, names
from secfed.errors import ConfigError, EncodingError

A = "base_model.model.layer.0.query.lora_A.weight"
B = "base_model.model.layer.0.query.lora_B.weight"
SCHEMA = {A: (2, 5), B: (4, 2), "head.weight": (3, 4), "head.bias": (3,)}


def adapter(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SCHEMA.items()}


def test_names_and_unknown_name() -> None:
    assert names() == ("fedavg", "ffa")
    with pytest.raises(ConfigError, match="krum"):
        by_name("krum")


def test_fedavg_sends_all_and_ffa_leaves_a_out() -> None:
    assert by_name("fedavg").wire_shapes(SCHEMA) == SCHEMA
    assert by_name("ffa").wire_shapes(SCHEMA) == {name: shape for name, shape in SCHEMA.items() if name != A}


def test_two_sites_worked_by_hand() -> None:
    base = {A: np.ones((1, 2), np.float32), B: np.zeros((2, 1), np.float32)}
    mean = {B: np.array([[0.5], [-1.0]], np.float32)}
    after = by_name("ffa").apply(base, mean)
    assert after[B].tolist() == [[0.5], [-1.0]]
    assert after[A].tolist() == [[1.0, 1.0]]
    assert after[A] is not base[A]


@pytest.mark.parametrize("name", names())
@given(sites=st.integers(1, 5), seed=st.integers(0, 1000))
def test_mean_of_contributions_gives_the_mean_adapter(name: str, sites: int, seed: int) -> None:
    """Averaging differences and adding them back is averaging what each site trained."""
    strategy = by_name(name)
    base = adapter(seed)
    trained = []
    for site in range(sites):
        other = adapter(seed + site + 1)
        trained.append({key: other[key] if key in strategy.trainable(base) else base[key] for key in base})
    contributions = [strategy.contribution(base, after) for after in trained]
    mean = {
        key: np.mean([c[key] for c in contributions], axis=0, dtype=np.float64).astype(np.float32)
        for key in contributions[0]
    }
    merged = strategy.apply(base, mean)
    for key in base:
        expected = np.mean([after[key] for after in trained], axis=0, dtype=np.float64)
        np.testing.assert_allclose(merged[key], expected, atol=2e-6)


def test_ffa_product_is_the_mean_of_products() -> None:
    """With one A everywhere, B averaged gives exactly the averaged change of the weights."""
    strategy, base = by_name("ffa"), adapter(0)
    sites = [{**adapter(seed), A: base[A]} for seed in (1, 2, 3)]
    contributions = [strategy.contribution(base, site) for site in sites]
    merged = strategy.apply(
        base, {key: np.mean([c[key] for c in contributions], axis=0) for key in contributions[0]}
    )
    products = np.mean([site[B].astype(np.float64) @ site[A] for site in sites], axis=0)
    np.testing.assert_allclose(merged[B].astype(np.float64) @ merged[A], products, atol=1e-5)


def test_frozen_array_that_moved_is_refused() -> None:
    base = adapter(0)
    with pytest.raises(EncodingError, match="frozen"):
        by_name("ffa").contribution(base, adapter(1))


@pytest.mark.parametrize("broken", ["missing", "extra", "shape"])
def test_wrong_layout_is_refused(broken: str) -> None:
    strategy, base = by_name("fedavg"), adapter(0)
    given = adapter(1)
    if broken == "missing":
        del given[B]
    elif broken == "extra":
        given["base_model.model.x.lora_B.weight"] = np.zeros((1, 1), np.float32)
    else:
        given[B] = given[B].T.copy()
    with pytest.raises(EncodingError):
        strategy.contribution(base, given)
    with pytest.raises(EncodingError):
        strategy.apply(base, given)


def test_array_that_is_no_adapter_is_refused() -> None:
    with pytest.raises(EncodingError, match="embed"):
        by_name("ffa").trainable(["base_model.model.embed.weight"])

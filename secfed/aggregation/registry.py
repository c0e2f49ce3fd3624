"""Strategies by the name that a job plan gives them."""

from __future__ import annotations

from secfed.aggregation.fedavg import FedAvg
from secfed.aggregation.ffa import FrozenA
from secfed.aggregation.strategy import Strategy
from secfed.errors import ConfigError

__all__ = ["by_name", "names"]

_STRATEGIES: dict[str, Strategy] = {strategy.name: strategy for strategy in (FedAvg(), FrozenA())}


def by_name(name: str) -> Strategy:
    """The strategy that a job plan names.

    Raises:
        ConfigError: There is none of that name.
    """
    try:
        return _STRATEGIES[name]
    except KeyError:
        known = ", ".join(names())
        raise ConfigError(f"unknown strategy {name!r}", hint=f"Choose one of: {known}.") from None


def names() -> tuple[str, ...]:
    """All strategies, by name."""
    return tuple(sorted(_STRATEGIES))

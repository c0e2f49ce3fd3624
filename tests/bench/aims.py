"""One line for each figure that has an aim: what, how much, the aim, and whether it is met."""

from __future__ import annotations

__all__ = ["tell"]


def tell(what: str, figure: float, aim: float, unit: str, *, least: bool = False) -> bool:
    """Print the line; whether the aim is met.

    Args:
        least: The aim is the least that will do; otherwise the most.
    """
    met = figure >= aim if least else figure <= aim
    bound = "at least" if least else "at most"
    print(f"{what:44} {figure:8.2f} {unit:4} aim {bound} {aim:g}: {'met' if met else 'MISSED'}", flush=True)
    return met

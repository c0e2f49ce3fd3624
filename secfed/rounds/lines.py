"""A round in one line, and a job's standing in words, from public facts alone."""

from __future__ import annotations

from secfed.rounds.exchange import RoundState

__all__ = ["round_line"]


def round_line(state: RoundState, rounds: int, delta: str | None) -> str:
    """Such as `round 12/50  asked 8  in 7  dropped 1 (hosp-c: upload timeout 180 s)  …  41 s`.

    Args:
        state: How the round ended.
        rounds: How many the job plans.
        delta: The plan's, or None without differential privacy.
    """
    parts = [f"round {state.round}/{rounds}", f"asked {state.asked}", f"in {len(state.included)}"]
    if state.dropped:
        why = "; ".join(f"{site}: {reason}" for site, reason in state.dropped)
        parts.append(f"dropped {len(state.dropped)} ({why})")
    if state.lost:
        why = "; ".join(f"{site}: {reason}" for site, reason in state.lost)
        parts.append(f"lost after the freeze {len(state.lost)} ({why})")
    if state.state != "published":
        parts.append(state.state)
    if delta is None:
        parts.append("not private")
    elif state.epsilon_by_plan:
        parts.append(f"eps by plan {state.epsilon_by_plan} (delta {_short(delta)})")
    parts.append(f"{state.seconds} s")
    return "  ".join(parts)


def _short(decimal: str) -> str:
    """`0.000001` as `1e-6`."""
    return f"{float(decimal):g}".replace("e-0", "e-")

"""The ways to spread feedback over sites, by name: known before the libraries that read rows are loaded."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias, get_args

from secfed.errors import ConfigError

__all__ = ["MODES", "Mode", "mode_of"]

Mode: TypeAlias = Literal["drop", "split", "shuffle", "label-skew"]

MODES: Final[tuple[Mode, ...]] = get_args(Mode)
"""drop: every pair's owner keeps the prompt and one response, at random; sites lose half their rows.
split: the two responses of a pair go to different sites; sizes stay. shuffle: all rows are permuted;
sizes stay. label-skew: each site draws its share of thumbs up from a Dirichlet law; sizes stay."""


def mode_of(text: str, concentration: float | None) -> Mode:
    """The mode that a person names, held against the parameter that belongs to one of them.

    Raises:
        ConfigError: There is no such mode, or the concentration is missing, out of place or not above 0.
    """
    found = next((each for each in MODES if each == text), None)
    if found is None:
        raise ConfigError(f"--mode is one of {', '.join(MODES)}, not {text!r}")
    if (found == "label-skew") != (concentration is not None):
        raise ConfigError("a concentration belongs to label-skew, which needs one")
    if concentration is not None and not 0 < concentration < float("inf"):
        raise ConfigError("the concentration is a finite number above 0")
    return found

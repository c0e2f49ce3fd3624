"""What an adapter is, apart from its numbers: enough to write it down and to build it again."""

from __future__ import annotations

from dataclasses import dataclass

from secfed.config.trainers import Trainer
from secfed.errors import ConfigError

__all__ = ["AdapterSpec", "Trainer"]


@dataclass(frozen=True, slots=True)
class AdapterSpec:
    """A LoRA adapter of a public base model.

    Attributes:
        base_model: The base model's public id, never a path.
        revision: The base model's public revision.
        trainer: What it was trained for.
        target_modules: Names of the linear layers that carry a factor pair.
        r: Rank.
        alpha: Scale; the product B A is multiplied by alpha / r.
        labels: Class names in order, for `classify`; empty otherwise.
        point: `kto`: whether the loss's reference point rides along as one more array.
    """

    base_model: str
    revision: str
    trainer: Trainer
    target_modules: tuple[str, ...]
    r: int
    alpha: int
    labels: tuple[str, ...] = ()
    point: bool = False

    def __post_init__(self) -> None:
        if self.r < 1 or self.alpha < 1 or not self.target_modules:
            raise ConfigError("an adapter needs a rank, a scale and target modules")
        if (self.trainer == "classify") != (len(self.labels) >= 2):
            raise ConfigError("`classify` has at least two labels, and nothing else has any")
        if self.point and self.trainer != "kto":
            raise ConfigError("a reference point belongs to `kto`")
        if self.base_model.startswith(("/", "~", ".")) or "\\" in self.base_model:
            raise ConfigError(
                f"base model {self.base_model!r} is a path",
                hint="Name the model by its public id; where it lies is each site's own setting.",
            )

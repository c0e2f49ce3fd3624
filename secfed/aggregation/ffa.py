"""FFA-LoRA: A stays as the job's public seed made it; B and the head are trained and averaged.

With one A at all sites the mean of B_i A is (mean of B_i) A, so aggregation is exact, and noise
enters the product linearly. Under differential privacy half the coordinates carry noise.

Source: Sun et al. 2024, arXiv:2403.12313.
"""

from __future__ import annotations

from secfed.aggregation.strategy import DeltaStrategy, is_frozen_half

__all__ = ["FrozenA"]


class FrozenA(DeltaStrategy):
    """B and head move, A never does."""

    name = "ffa"

    def chosen(self, name: str) -> bool:
        """Whatever is not an A factor."""
        return not is_frozen_half(name)

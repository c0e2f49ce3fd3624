"""FedAvg-LoRA: A, B and the head are trained, and averaged apart.

The mean of products is not the product of means: with dA, dB the sites' differences the new
adapter misses their covariance. It is the plain baseline, and carries twice FFA's coordinates.

Source: McMahan et al. 2017, arXiv:1602.05629; FedIT, Zhang et al. 2024, arXiv:2305.05644.
"""

from __future__ import annotations

from secfed.aggregation.strategy import DeltaStrategy

__all__ = ["FedAvg"]


class FedAvg(DeltaStrategy):
    """Every array of the adapter is trained, sent and averaged."""

    name = "fedavg"

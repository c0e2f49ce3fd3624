"""The reference point z0 of `kto` as one more coordinate that is clipped, noised, summed and broadcast.

z0 is the mean gain of responses that do not belong to their prompts, at least 0. Common trainers take
it from the batch, so that one row moves every other row's gradient by more than the clipping norm.
Here it is a parameter beside the adapter's. A round's losses use the point that the round began with,
which is public: it came with the broadcast adapter. Meanwhile the parameter learns where the point
should be. With z its value, and m the gain of a record's prompt with a completion of the plan, a
record's gradient is that of (z - m)^2 / 2, cut to `MOST_NATS`; plain steps with it make z an
exponential average of the records' means, about 1 / `RATE` batches long:

    z <- z - RATE / B * (sum over units of (z - m), noised)

How it stays sound: a unit's gradient of the adapter is clipped to sqrt(1 - SHARE^2) C and its gradient
of the point, in units in which it cannot exceed that, to SHARE C, so that both together have a norm of
at most C. The noise on every coordinate has the standard deviation sigma C. So it is one Gaussian
release of sensitivity C, as without the point, and the event that is charged is the same. The two
clips are apart because a joint one would shorten m by a factor that depends on the adapter's gradient.

What it costs: half a per cent of the adapter's clipping norm, and a forward pass a record. How good it
is: noise moves the point by sigma MOST_NATS / (SHARE B) nats a batch, of which the average leaves
sqrt(RATE / (2 - RATE)), and the mean over n sites one part in sqrt(n): with sigma .8, B 64 and three
sites about .3 nats. A point that is off by e shifts the factor before a record's gradient by less than
a tenth of weight beta^2 e.

Source: the point, Ethayarajh et al. 2024, arXiv:2402.01306; clipping groups of coordinates apart,
McMahan et al. 2018, arXiv:1812.06210 (the groups' norms in square add up to C^2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from secfed.aggregation.strategy import POINT
from secfed.errors import ConfigError

__all__ = ["MOST_NATS", "POINT_LAYER", "RATE", "SHARE", "ReferencePoint", "WithPoint", "point_gradients"]

MOST_NATS: Final = 20.0
"""Most that a record can pull the point by in one step, and the largest point that is used."""

SHARE: Final = 0.1
"""Part of the clipping norm C that is the point's."""

RATE: Final = 0.1
"""How far a batch of B units moves the point towards its mean."""


POINT_LAYER: Final = POINT.removesuffix(".value")
"""What the layer is called beside an adapter."""


class ReferencePoint(nn.Module):
    """The point as a layer of one parameter, beside the adapter.

    The parameter is not in nats: it is scaled so that a point of `MOST_NATS` is the bound that the
    plan puts on every coordinate of an update.
    """

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(1))
        self.scale(bound=1.0, clip=1.0)

    def scale(self, *, bound: float, clip: float) -> None:
        """Set the units, from public constants.

        Args:
            bound: Largest coordinate of an update, in model units.
            clip: C; where nothing is clipped any number does.

        Raises:
            ConfigError: The plan lets no coordinate move.
        """
        if not (bound > 0 and clip > 0):
            raise ConfigError("a reference point that rides along needs a learning_rate and a clip above 0")
        self._unit = bound / MOST_NATS
        self._slope = SHARE * clip / MOST_NATS

    @property
    def nats(self) -> float:
        """Where the parameter stands, noise and all: it may be below 0."""
        return float(self.value.detach()) / self._unit

    @property
    def point(self) -> float:
        """z0: what losses may use, from 0 to `MOST_NATS`."""
        return min(max(self.nats, 0.0), MOST_NATS)

    @property
    def learning_rate(self) -> float:
        """Of plain steps on the parameter."""
        return RATE * self._unit / self._slope

    def forward(self, gains: Tensor) -> Tensor:
        """A term for each record's loss that is zero, and whose gradient is the record's pull.

        Args:
            gains: m of every record in nats, without a gradient, shape (records,).
        """
        term = self.pulls(gains) * self.value
        return term - term.detach()

    def pulls(self, gains: Tensor) -> Tensor:
        """Gradient of every record by the parameter: at most SHARE C, shape (records,)."""
        return self._slope * (self.nats - gains).clamp(-MOST_NATS, MOST_NATS)


def point_gradients(
    layer: ReferencePoint, activations: Sequence[Tensor], backprops: Tensor
) -> dict[Tensor, Tensor]:
    """Gradient of each record's loss by the point, for Opacus' registry of samplers; shape (records, 1)."""
    return {layer.value: (layer.pulls(activations[0]) * backprops)[:, None]}


class WithPoint(torch.optim.Optimizer):
    """The plan's optimiser for the adapter, and plain steps for the point.

    Args:
        inner: Steps on the adapter's arrays.
        point: The layer.
    """

    def __init__(self, inner: torch.optim.Optimizer, point: ReferencePoint) -> None:
        plain = torch.optim.SGD([point.value], lr=point.learning_rate)
        self._parts = (inner, plain)
        groups = [group for part in self._parts for group in part.param_groups]
        super().__init__([parameter for group in groups for parameter in group["params"]], {})

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step of each."""
        if closure is not None:
            raise ValueError("a closure would compute gradients past the clipping")
        for part in self._parts:
            part.step()

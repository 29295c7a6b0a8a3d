"""Bounds of the states of an affine layer, entry by entry, for all inputs in boxes or balls."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wellposed.errors import CertificateError
from wellposed.guarantee import Guarantee
from wellposed.layers.equilibrium import Equilibrium
from wellposed.network.mixed_monotone import StateBoxes
from wellposed.network.positive_hull import PositiveHull


class StateIntervals:
    """The states of one layer z = σ(Wz + Ux + b), or of one with a positive part of Ux + b.

    Args:
        name: of the layer, for errors.
        layer: the layer.
        promise: what is proved of a layer that promises nothing by itself; None for the layer's own guarantee.

    Raises:
        CertificateError: the input map, W or σ has no known interval, or there may be several equilibria.
    """

    @torch.no_grad()
    def __init__(self, name: str, layer: Equilibrium, promise: Guarantee | None) -> None:
        self._part = layer.injection.positive_part
        numbers = layer.injection.affine() if self._part is None else layer.injection.numbers()
        if numbers is None:
            raise CertificateError(f"{name}: intervals need a linear input map, or a convolution without a border")
        self._numbers = numbers.cpu()
        operator, guarantee = layer.materialise()
        self._states: StateBoxes | PositiveHull
        if guarantee is not None and guarantee.is_concave:
            self._states = PositiveHull(operator, layer.activation, guarantee)
            return
        self._states = StateBoxes(name, operator, layer.activation)
        (promise or layer.guarantee()).offset_lipschitz()  # that there is but one equilibrium is half of the proof

    def of_boxes(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Least and largest states for all inputs between two; infinite where none are proved.

        Args:
            lower: shape (batch, *input_shape), float64 on the CPU.
            upper: of the shape of ``lower``.
        """
        return self._between(*self._numbers.interval(lower, upper))

    def of_balls(self, centre: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
        """Least and largest states for all inputs in Euclidean balls; infinite where none are proved.

        Args:
            centre: shape (batch, *input_shape), float64 on the CPU.
            radius: shape (batch,), float64.
        """
        return self._between(*self._numbers.interval_of_balls(centre, radius))

    def _between(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Least and largest states for all values of Ux + b between two."""
        low, high = (low, high) if self._part is None else self._part.interval(low, high)
        known, each = torch.isfinite(high - low).flatten(1).all(1), (-1, *[1] * (low.ndim - 1))
        lower, upper, proved = self._states.enclose(*(end.where(known.reshape(each), 1.0) for end in (low, high)))
        proved = (proved & known).reshape(each)
        return lower.where(proved, -math.inf), upper.where(proved, math.inf)

"""Sensitivity of convolutional layers channel by channel, from sums of taps: independent of the image's size.

With slopes in [0, 1], a change d of the offset and e of the equilibrium, coordinate by coordinate
``(1 − k_o)|e| ≤ Σ |tap||e shifted| + |d|``, k_o the centre tap of channel o to itself. Taking any ℓp norm over the pixels of
each channel (Young's inequality; zero padding only leaves terms out) gives ``(diag(1 − k) − T)·a ≤ b`` for the vectors a, b
of these norms of e and d, T_oi the sum of the absolute other taps. So everything that `Componentwise` proves of a matrix
holds with channels for components.
"""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.guarantee.base import Guarantee
from wellposed.guarantee.componentwise import Componentwise
from wellposed.guarantee.majorant import Majorant, majorant
from wellposed.guarantee.plan import Plan
from wellposed.guarantee.typical import Typical, spectral_radius
from wellposed.numerics.euclidean import euclidean
from wellposed.numerics.outward import enlarged, enlarged_sum, error_of
from wellposed.operators import Operator


class Channelwise(Componentwise):
    """`Componentwise` for a convolution, with channels for components.

    Args:
        operator: a zero-padded convolution: it knows its `Operator.coefficients`.
    """

    theorem = "Jafarpour, Davydov, Proskurnikov & Bullo 2021: μ_∞,η(W) < 1, by tap sums"
    lipschitz_theorem = "channelwise sensitivity (diag(1 − k) − T)⁻¹"

    @cached_property
    def _sums(self) -> tuple[Tensor, Tensor]:
        """The centre taps k, shape (channels,), and T, on its diagonal a channel's other taps to itself; float64."""
        known = self.operator.coefficients()
        assert known is not None
        kernel = known.weight.detach().double().cpu()
        centre = kernel[known.own.cpu()]
        sums = enlarged_sum(kernel.abs().sum((2, 3)), kernel[0, 0].numel() + 1)
        sums.diagonal().sub_(centre.abs())
        return centre, sums.clamp_min(0.0)

    @cached_property
    def majorant(self) -> Majorant:
        """The proof for the matrix whose diagonal is k plus the other taps of a channel to itself."""

        def compute() -> Majorant:
            centre, sums = self._sums
            matrix = sums.clone()
            matrix.diagonal().add_(centre)
            matrix.diagonal().add_(error_of(centre.abs() + sums.diagonal(), 1))
            return majorant(matrix)

        return self.operator.remembered("channel majorant", compute, oriented=True)

    @override
    def averaged_plan(self, damping: float | None = None) -> Plan | None:
        """For dampings up to 1/(1 − min(k_o, 0))."""
        largest = 1.0 / (1.0 - min(float(self._sums[0].min()), 0.0))
        damping = largest if damping is None else damping
        factor = 1.0 - damping * (1.0 - max(self.majorant.log_norm, 0.0))
        return self._plan(damping, factor) if damping <= largest else None

    @override
    def forward_backward_plan(self, step: float | None = None) -> Plan | None:
        """With the step 1/(1 − k_o) of every channel."""
        if step is not None:
            return None
        centre, sums = self._sums
        weights = self.majorant.weights
        factor = enlarged(float((torch.mv(sums, weights) / weights / (1.0 - centre)).amax()), len(weights) + 4)
        return self._plan((1.0 / (1.0 - centre)).to(self.operator.tensors[0])[:, None, None], factor)

    @override
    def reflected_plan(self, step: float | None = None, relaxation: float = 1.0) -> None:
        """Nothing: the state map has no cheap resolvent."""

    @property
    def _entries(self) -> int:
        return math.prod(self.operator.state_shape)

    def _moved(self, change: Tensor) -> Tensor:
        """The sensitivity applied to each channel's Euclidean norm, then the norm over channels."""
        return super()._moved(euclidean(change.flatten(0, 1)).reshape(change.shape[:2]))

    @override
    def suggested_step(self) -> float:
        """The largest step at which I − W does not amplify."""
        return 1.0 / (1.0 - float(self._sums[0].min()))

    @override
    def estimated(self) -> Guarantee:
        """As for matrices, with channels for components."""
        known = self.operator.coefficients()
        assert known is not None

        @torch.no_grad()
        def compute() -> tuple[Tensor, float]:
            kernel = known.weight.detach()
            room = 1.0 - kernel[known.own]
            sums = torch.where(known.own, 0.0, kernel.abs()).sum((2, 3))
            radius = spectral_radius(lambda vector: torch.mv(sums, vector) / room, torch.ones_like(room))
            return room[:, None, None], radius

        return Typical(self, self.operator, *self.operator.remembered("typical", compute))

    @override
    def on(self, operator: Operator) -> Channelwise:
        return Channelwise(operator)

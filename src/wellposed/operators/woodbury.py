"""The factorised resolvent of a convolution with a term of low rank, in a diagonal metric."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.numerics.linear_algebra import inverse, solve
from wellposed.operators.fourier import to_image, to_spectrum, typical_singular_value
from wellposed.operators.structured import FactorisedTransform


class WoodburyCayley(FactorisedTransform):
    """``2·(I + step·Λ(I − W))⁻¹ − I`` for a `ScaledCircular` W.

    With V = (I + step·C)⁻¹ the inverse is V − V Gᵀ(I/step + G V Gᵀ)⁻¹G V. The transform of Wᵀ is Λ times the adjoint times Ψ.

    Args:
        transfer: see `ScaledCircular`.
        scale: see `ScaledCircular`.
        factor: see `ScaledCircular`.
        image: height and width.
        step: the step.
    """

    def __init__(
        self, transfer: Tensor, scale: Tensor, factor: Tensor | None, image: tuple[int, int], step: float
    ) -> None:
        identity = torch.eye(transfer.shape[-1], dtype=transfer.dtype, device=transfer.device)
        solved = inverse(identity + step * transfer)
        self._image, self._scale, self._transposed = image, scale, False
        self._matrices = (2.0 * solved - identity).flatten(0, 1)
        self._sides: tuple[Tensor, Tensor] | None = None
        if factor is not None:
            spectrum = to_spectrum(factor)
            driven = to_image(torch.bmm(solved.flatten(0, 1), spectrum), image).flatten(1)  # (V Gᵀ)ᵀ
            seen = to_image(torch.bmm(solved.flatten(0, 1).mH, spectrum), image).flatten(1)  # G V
            small = (
                torch.eye(len(factor), dtype=scale.dtype, device=scale.device) / step + factor.flatten(1) @ driven.t()
            )
            self._sides = (seen, 2.0 * solve(small.t(), driven))

    @override
    def apply(self, state: Tensor) -> Tensor:
        flipped = self._transposed
        start = state * self._scale if flipped else state
        matrices = self._matrices.mH if flipped else self._matrices
        found = to_image(torch.bmm(matrices, to_spectrum(start)), self._image)
        if self._sides is not None:
            into, out = reversed(self._sides) if flipped else self._sides
            found = found - (start.flatten(1) @ into.t() @ out).reshape(found.shape)
        return found / self._scale if flipped else found

    def norm_estimate(self) -> float:
        """Of the convolution: the other part acts in a few directions only."""
        if "_rate" not in self.__dict__:
            self._rate = typical_singular_value(self._matrices, self._image)
        return self._rate

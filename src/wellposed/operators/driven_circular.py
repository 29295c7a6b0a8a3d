"""A state map ``W = I − Ψ(C + GᵀG) − RRᵀΛ`` with Λ = Ψ⁻¹: a `ScaledCircular` one, with a further circular convolution R.

Then ``Λ(I − W) = C + BᵀB`` for B with the rows of G and of RᵀΛ. By the formula of Woodbury its resolvent needs the resolvent of
the convolution C, and one matrix of as many rows as R's input has numbers: for small ones only.
"""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.numerics.outward import enlarged
from wellposed.operators.cache import FactorisationCache
from wellposed.operators.driven_woodbury import DrivenCayley
from wellposed.operators.fourier import image_rounding, multiplicity, to_image, to_spectrum, typical_singular_value
from wellposed.operators.scaled_circular import ScaledCircular
from wellposed.operators.structured import FactorisedTransform


class DrivenCircular(ScaledCircular):
    """``W`` by C, Ψ, G and R, acting on states of shape (batch, channels, height, width).

    Args:
        transfer: of C, see `ScaledCircular`.
        scale: the diagonal of Ψ, see `ScaledCircular`.
        width: of the image.
        factor: G, shape (rows, channels, height, width).
        driven: transfer function of R, complex, shape (height, width//2 + 1, channels, inputs).
        cache: factorisations to share with other operators of the same layer.
        transposed: act as the transpose.
    """

    driven: Tensor

    def __init__(
        self,
        transfer: Tensor,
        scale: Tensor,
        width: int,
        factor: Tensor,
        driven: Tensor,
        cache: FactorisationCache | None = None,
        *,
        transposed: bool = False,
    ) -> None:
        super().__init__(transfer, scale, width, factor, cache, transposed=transposed)
        self.driven = driven

    @property
    @override
    def tensors(self) -> tuple[Tensor, ...]:
        return (*super().tensors, self.driven)

    def _like(self, tensors: tuple[Tensor, ...], *, transposed: bool) -> Self:
        transfer, scale, factor, driven = tensors
        return type(self)(transfer, scale, self.image[1], factor, driven, self._cache, transposed=transposed)

    def _factorised(self, step: float, tensors: tuple[Tensor, ...]) -> FactorisedTransform:
        return DrivenCayley(tensors, self.image, step)

    @override
    def apply(self, state: Tensor) -> Tensor:
        matrices = self.driven.flatten(0, 1)
        start = state if self._transposed else state / self._scale
        found = to_image(torch.bmm(matrices, torch.bmm(matrices.mH, to_spectrum(start))), self.image)
        return super().apply(state) - (found / self._scale if self._transposed else found)

    def _driven_squares(self) -> Tensor:
        """Squares of the entries of R's matrices, float64, shape (height, width//2 + 1, channels, inputs)."""
        entry = self._entry()
        return entry.remembered(
            "driven squares", lambda: torch.view_as_real(entry.tensors[3]).double().square().sum(-1)
        )

    @override
    def displacement_norm(self) -> float:
        """Upper bound of ‖C + GᵀG + ΛRRᵀΛ‖₂."""
        largest = float(self._driven_squares().sum((2, 3)).amax()) / float(self._squares()[1].amin()) ** 2
        return enlarged(super().displacement_norm() + largest, 2 * self.driven[0, 0].numel() + 4)

    def _driven_norm_estimate(self) -> float:
        """Root-mean-square singular value of RRᵀ."""
        entry = self._entry()
        matrices = entry.tensors[3].flatten(0, 1)
        return entry.remembered("typical", lambda: typical_singular_value(matrices @ matrices.mH, self.image))

    @override
    def displacement_norm_estimate(self) -> float:
        inverse_squares = float(self._squares()[1].square().reciprocal().mean())
        return math.hypot(super().displacement_norm_estimate(), self._driven_norm_estimate() * inverse_squares)

    def trace(self) -> float:
        """The trace, for which the diagonal of RRᵀ is the same number for all pixels of a channel."""
        weights = multiplicity(self.image[1], self._scale.device)[None, :, None]
        means = (self._driven_squares().sum(3) * weights).sum((0, 1)) / (self.image[0] * self.image[1])
        metric = (1.0 / self._squares()[1]).expand(self.state_shape).sum((1, 2))
        return super().trace() - float((means * metric).sum())

    def rounding_terms(self) -> float:
        """With two more transforms, and products with R."""
        further = 2.0 * image_rounding(self.image) + 4.0 * (sum(self.driven.shape[2:]) + 8) + 4.0
        return super().rounding_terms() + further

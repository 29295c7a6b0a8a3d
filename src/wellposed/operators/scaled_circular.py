"""A state map ``W = I − Ψ(C + GᵀG)``: a circular convolution and a term of low rank, in a diagonal metric.

I − W itself is no convolution where Ψ changes from pixel to pixel, but with Λ = Ψ⁻¹ the resolvent of ``Λ(I − W) = C + GᵀG`` needs
one matrix per frequency and the formula of Woodbury. Splitting with the step sizes α·Λ uses nothing else.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.errors import InputError
from wellposed.numerics.outward import FIRST_ORDER, enlarged, unit_of
from wellposed.operators.base import FrequencyForm
from wellposed.operators.cache import FactorisationCache
from wellposed.operators.fourier import image_rounding, multiplicity, to_image, to_spectrum
from wellposed.operators.structured import FactorisedTransform, StructuredOperator
from wellposed.operators.woodbury import WoodburyCayley


class ScaledCircular(StructuredOperator):
    """``W`` by C, Ψ and G, acting on states of shape (batch, channels, height, width).

    Args:
        transfer: of C, complex, shape (height, width//2 + 1, channels, channels).
        scale: the diagonal of Ψ, positive, of a shape that broadcasts to the state's.
        width: of the image.
        factor: G, shape (rows, channels, height, width); None for none.
        cache: factorisations to share with other operators of the same layer.
        transposed: act as the transpose.

    Attributes:
        driven: transfer function of a further convolution R, see `DrivenCircular`; None for none.
    """

    driven: Tensor | None = None

    def __init__(
        self,
        transfer: Tensor,
        scale: Tensor,
        width: int,
        factor: Tensor | None = None,
        cache: FactorisationCache | None = None,
        *,
        transposed: bool = False,
    ) -> None:
        super().__init__(cache, transposed=transposed)
        self.transfer, self.factor = transfer, factor
        self._scale = scale
        self.image = (transfer.shape[0], width)
        self._shape = (transfer.shape[2], *self.image)
        if scale.ndim != 3 or (factor is not None and factor.shape[1:] != self._shape):
            found = None if factor is None else tuple(factor.shape)
            raise InputError(
                f"scale, factor: have shapes {tuple(scale.shape)} and {found}, for states of {self._shape}"
            )
        self._rows = None if factor is None else factor.flatten(1)

    @property
    @override
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.transfer, self._scale) if self.factor is None else (self.transfer, self._scale, self.factor)

    def _like(self, tensors: tuple[Tensor, ...], *, transposed: bool) -> Self:
        factor = tensors[2] if len(tensors) > 2 else None
        return type(self)(tensors[0], tensors[1], self.image[1], factor, self._cache, transposed=transposed)

    @property
    @override
    def state_shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    @override
    def dtype(self) -> torch.dtype:
        return self._scale.dtype

    @property
    @override
    def scale(self) -> Tensor:
        return self._scale

    @override
    def frequency_form(self) -> FrequencyForm | None:
        """I − ΨC, where Ψ is the same for all pixels and nothing else is there."""
        if self._transposed or len(self.tensors) > 2 or self._scale.shape[1:] != (1, 1):
            return None
        channels = self.transfer.shape[-1]
        wide = self._scale.detach().double().cpu().reshape(-1).expand(channels)
        core = self.transfer.detach().to("cpu", torch.complex128)
        transfer = torch.eye(channels, dtype=core.dtype, device="cpu") - wide[:, None] * core
        return FrequencyForm(transfer, self.image, 1.0 / wide)

    @override
    def symmetric_parts(self) -> list[tuple[Tensor, float]]:
        """C; GᵀG only adds to it."""
        return [(self.transfer.detach().to("cpu", torch.complex128).flatten(0, 1), 0.0)]

    def _factorised(self, step: float, tensors: tuple[Tensor, ...]) -> FactorisedTransform:
        factor = tensors[2] if len(tensors) > 2 else None
        return WoodburyCayley(tensors[0], tensors[1], factor, self.image, step)

    @override
    def apply(self, state: Tensor) -> Tensor:
        matrices = self.transfer.flatten(0, 1)
        scaled = state * self._scale if self._transposed else state
        found = to_image(torch.bmm(matrices.mH if self._transposed else matrices, to_spectrum(scaled)), self.image)
        if self._rows is not None:
            found = found + (scaled.flatten(1) @ self._rows.t() @ self._rows).reshape(state.shape)
        return state - (found if self._transposed else found * self._scale)

    def _squares(self) -> tuple[Tensor, Tensor, Tensor]:
        """Per frequency the squared Frobenius norm of C's matrix; Ψ; and the squares of G's columns; float64."""
        entry = self._entry()

        def compute() -> tuple[Tensor, Tensor, Tensor]:
            transfer, scale = entry.tensors[:2]
            squares = torch.view_as_real(transfer).double().square().sum((2, 3, 4))
            columns = torch.zeros(self._shape, dtype=torch.float64, device=scale.device)
            for factor in entry.tensors[2:3]:
                columns = factor.double().square().sum(0)
            return squares, scale.double(), columns

        return entry.remembered("squares", compute)

    @override
    def displacement_norm(self) -> float:
        """Upper bound of ‖C + GᵀG‖₂."""
        squares, _, columns = self._squares()
        terms = 2 * self.transfer[0, 0].numel() + (0 if self.factor is None else self.factor.numel())
        return enlarged(float(squares.amax()) ** 0.5 + float(columns.sum()), terms + 3)

    @override
    def norm_upper_bound(self) -> float:
        return enlarged(1.0 + float(self._squares()[1].amax()) * self.displacement_norm(), 2)

    def trace(self) -> float:
        """Every channel of C has one diagonal entry, the mean over frequencies."""
        transfer, scale = self._entry().tensors[:2]
        weights = multiplicity(self.image[1], transfer.device)[None, :, None]
        means = (transfer.diagonal(dim1=2, dim2=3).real.double() * weights).sum((0, 1)) / (
            self.image[0] * self.image[1]
        )
        diagonal = means[:, None, None] + self._squares()[2]
        return float((1.0 - scale.double() * diagonal).sum())

    @override
    def displacement_norm_estimate(self) -> float:
        """Root-mean-square singular value of C, which leaves out the few directions of G."""
        squares, _, columns = self._squares()
        weights = multiplicity(self.image[1], squares.device)
        size = self.image[0] * self.image[1] * columns.shape[0]
        return (float((squares * weights).sum()) / size) ** 0.5

    @override
    def norm_estimate(self) -> float:
        return 1.0 + float(self._squares()[1].square().mean().sqrt()) * self.displacement_norm_estimate()

    @override
    def rounding(self, state_norm: Tensor, offset_norm: Tensor) -> Tensor:
        unit = unit_of(self.dtype)
        largest = 2.0 + float(self._squares()[1].amax()) * self.displacement_norm()
        return unit * self.rounding_terms() * (largest * state_norm + offset_norm) * FIRST_ORDER

    @override
    def weighed_rounding(self, state_norm: Tensor, offset_norm: Tensor) -> Tensor | None:
        """Ψ, which multiplies what convolutions and products err by, is undone; a few roundings of sums are not."""
        if self._transposed:
            return None
        largest = 1.0 / float(self._squares()[1].amin())
        convolved = self.rounding_terms() * self.displacement_norm() * state_norm
        return unit_of(self.dtype) * (convolved + 16.0 * largest * (state_norm + offset_norm)) * FIRST_ORDER

    def rounding_terms(self) -> float:
        """Roundings that a number can go through."""
        transforms = 2.0 * image_rounding(self.image) + 4.0 * (self.transfer.shape[2] + 4)
        return transforms + 16.0 + (0.0 if self._rows is None else 2.0 * (self._rows.shape[1] + len(self._rows)))

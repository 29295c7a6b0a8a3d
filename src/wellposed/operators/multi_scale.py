"""A state map over several image sizes, each driven by the one before: block lower triangular (Winston & Kolter 2020, section 4).

The state holds tiers, each an image of half the height and width of the one before, up to a zero border. With T_i and L_i
circular convolutions on tier i, and D_i = S K_i a circular convolution of tier i of which every second row and column is kept,

    (W z)_i = T_i z_i − D_iᵀ D_i z_i + L_i E D_(i−1) z_(i−1),

E putting an image into the upper left corner of the next tier. An extent of one pixel is not halved.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Self

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.errors import InputError
from wellposed.numerics.outward import FIRST_ORDER, enlarged, enlarged_norm, rounding_constant, unit_of
from wellposed.operators.cache import FactorisationCache
from wellposed.operators.circular import displacement
from wellposed.operators.fourier import image_rounding, multiplicity, to_image, to_spectrum
from wellposed.operators.multi_scale_resolvent import BlockCayley, sampled_norm
from wellposed.operators.structured import StructuredOperator
from wellposed.operators.tiers import Size, Tiers, act, decimate, embedded, spread, strides


class MultiScale(StructuredOperator):
    """``W`` by the transfer functions of its convolutions, acting on flat states of shape (batch, features).

    Args:
        own: T_i for every tier, complex, shape (height, width//2 + 1, channels, channels).
        down: K_i for every tier but the last, shape (height, width//2 + 1, channels of the next tier, channels).
        into: L_i for every tier but the first, shape as of T_i.
        images: height and width of every tier.
        cache: factorisations to share with other operators of the same layer.
        transposed: act as the transpose.
    """

    def __init__(
        self,
        own: tuple[Tensor, ...],
        down: tuple[Tensor, ...],
        into: tuple[Tensor, ...],
        images: tuple[Size, ...],
        cache: FactorisationCache | None = None,
        *,
        transposed: bool = False,
    ) -> None:
        if not len(own) == len(images) == len(down) + 1 == len(into) + 1:
            raise InputError(f"images: {len(images)} tiers, but {len(own)}, {len(down)} and {len(into)} convolutions")
        super().__init__(cache, transposed=transposed)
        self.own, self.down, self.into, self.images = own, down, into, images
        self.layout = Tiers(tuple(part.shape[2] for part in own), images)

    @property
    @override
    def tensors(self) -> tuple[Tensor, ...]:
        return (*self.own, *self.down, *self.into)

    def _sorted(self, tensors: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], tuple[Tensor, ...]]:
        count = len(self.images)
        return tensors[:count], tensors[count : 2 * count - 1], tensors[2 * count - 1 :]

    @property
    @override
    def state_shape(self) -> tuple[int, ...]:
        return (sum(self.layout.features),)

    @property
    @override
    def _sizes(self) -> Hashable:
        return self.images

    @override
    def symmetric_parts(self) -> list[tuple[Tensor, float]]:
        """The blocks R_i of ``I − W = R + AᵀA + skew`` with A block lower bidiagonal.

        With A_i = −½L_iᵀ on the diagonal of A (zero for the first tier) and E D_i below it, AᵀA has the same blocks beside the
        diagonal as the symmetric part of I − W. What remains is block diagonal: R_i = I − T_i − A_iᵀA_i.
        """
        found = [displacement(self.own[0])]
        for own, into in zip(self.own[1:], self.into, strict=True):
            matrices, error = displacement(own)
            half = 0.5 * into.detach().to("cpu", torch.complex128).flatten(0, 1)
            energy = float(half.abs().square().sum((1, 2)).amax())
            found.append((matrices - half @ half.mH, 2.0 * error + rounding_constant(4 * half.shape[-1] + 16) * energy))
        return found

    def _like(self, tensors: tuple[Tensor, ...], *, transposed: bool) -> Self:
        return type(self)(*self._sorted(tensors), self.images, self._cache, transposed=transposed)

    def _factorised(self, step: float, tensors: tuple[Tensor, ...]) -> BlockCayley:
        return BlockCayley(*self._sorted(tensors), self.layout, step)

    @override
    def apply(self, state: Tensor) -> Tensor:
        parts = self.layout.split(state)
        spectra = [to_spectrum(part) for part in parts]
        kept = [
            decimate(to_image(act(down, spectrum), size), size)
            for down, spectrum, size in zip(self.down, spectra[:-1], self.images[:-1], strict=True)
        ]
        images = []
        for index, size in enumerate(self.images):
            spectrum = act(self.own[index], spectra[index], adjoint=self._transposed)
            if index < len(kept):
                back = kept[index]
                if self._transposed:
                    following = to_image(
                        act(self.into[index], spectra[index + 1], adjoint=True), self.images[index + 1]
                    )
                    back = back - following[..., : back.shape[-2], : back.shape[-1]]
                spectrum = spectrum - act(self.down[index], to_spectrum(spread(back, size)), adjoint=True)
            if index and not self._transposed:
                spectrum = spectrum + act(self.into[index - 1], to_spectrum(embedded(kept[index - 1], size)))
            images.append(to_image(spectrum, size))
        return self.layout.join(images)

    def _largest(self) -> tuple[list[float], list[float], list[float]]:
        """Largest Frobenius norm at any frequency of every T, K and L: at least their norms."""

        def compute() -> tuple[list[float], list[float], list[float]]:
            sizes = [
                enlarged_norm(
                    float(torch.view_as_real(tensor).double().square().sum((2, 3, 4)).amax()) ** 0.5,
                    2 * tensor[0, 0].numel(),
                )
                for tensor in self._entry().tensors
            ]
            count = len(self.images)
            return sizes[:count], sizes[count : 2 * count - 1], sizes[2 * count - 1 :]

        return self._entry().remembered("largest", compute)

    def norm_upper_bound(self) -> float:
        """The largest norm of a diagonal block plus the largest one beside the diagonal."""
        own, down, into = self._largest()
        diagonal = [a + b * b for a, b in zip(own, [*down, 0.0], strict=True)]
        return enlarged(max(diagonal) + max((a * b for a, b in zip(down, into, strict=True)), default=0.0), 3)

    @override
    def trace(self) -> float:
        own, down, _ = self._sorted(self._entry().tensors)
        total = 0.0
        for transfer, size in zip(own, self.images, strict=True):
            traces = transfer.diagonal(dim1=2, dim2=3).real.double().sum(2)
            total += float((traces * multiplicity(size[1], transfer.device)).sum())
        for transfer, size in zip(down, self.images[:-1], strict=True):
            squares = torch.view_as_real(transfer).double().square().sum((2, 3, 4))
            rows, columns = strides(size)  # of ‖K‖_F², decimation keeps one part in so many
            total -= float((squares * multiplicity(size[1], transfer.device)).sum()) / (rows * columns)
        return total

    @override
    def norm_estimate(self) -> float:
        return self.remembered("norm estimate", lambda: sampled_norm(self.apply, self._probe()))

    @override
    def displacement_norm_estimate(self) -> float:
        return self.remembered("displacement", lambda: sampled_norm(lambda z: z - self.apply(z), self._probe()))

    def _probe(self) -> Tensor:
        return torch.empty(8, sum(self.layout.features), dtype=self.own[0].real.dtype, device=self.own[0].device)

    def rounding(self, state_norm: Tensor, offset_norm: Tensor) -> Tensor:
        """The bound of one convolution for T, and twice that for K*K, LK and their adjoints: two, one after the other."""
        unit = unit_of(self.dtype)
        transforms = max(image_rounding(size) for size in self.images)
        relative = unit * (2.0 * transforms + 4.0 * (max(self.layout.channels) + 4) + 4.0)  # with the sums of spectra
        own, down, into = self._largest()
        pairs = max((b * b for b in down), default=0.0)
        pairs += max((a * b for a, b in zip(down, into, strict=True)), default=0.0)
        return relative * ((max(own) + 2.0 * pairs) * state_norm + offset_norm) * FIRST_ORDER

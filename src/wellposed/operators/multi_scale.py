"""A state map over several image sizes, each driven by the one before: block lower triangular (Winston & Kolter 2020, section 4).

The state holds tiers, each an image of half the height and width of the one before, up to a zero border. With T_i and L_i
circular convolutions on tier i, and D_i = S K_i a circular convolution of tier i of which every second row and column is kept,

    (W z)_i = T_i z_i − D_iᵀ D_i z_i + L_i E D_(i−1) z_(i−1),

E putting an image into the upper left corner of the next tier. An extent of one pixel is not halved.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable
from typing import Self

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.errors import InputError
from wellposed.numerics.linear_algebra import inverse
from wellposed.numerics.outward import FIRST_ORDER, enlarged, enlarged_norm, rounding_constant, unit_of
from wellposed.operators.cache import FactorisationCache
from wellposed.operators.circular import displacement
from wellposed.operators.fourier import image_rounding, multiplicity, to_image, to_spectrum
from wellposed.operators.structured import FactorisedTransform, StructuredOperator

Size = tuple[int, int]


def strides(size: Size) -> Size:
    """By how much a tier's height and width are divided for the next one."""
    return (2 if size[0] > 1 else 1, 2 if size[1] > 1 else 1)


def reduced(size: Size) -> Size:
    """Height and width after keeping every second row and column."""
    rows, columns = strides(size)
    return size[0] // rows, size[1] // columns


def decimate(image: Tensor, size: Size) -> Tensor:
    """Every second row and column of an image of a tier."""
    rows, columns = strides(size)
    return image[..., ::rows, ::columns]


def spread(image: Tensor, size: Size) -> Tensor:
    """The adjoint of `decimate`: zeros in the other rows and columns."""
    rows, columns = strides(size)
    wide = torch.nn.functional.pad(image[..., :, None, :, None], (0, columns - 1, 0, 0, 0, rows - 1))
    return wide.flatten(-4, -3).flatten(-2, -1)


def _embed(image: Tensor, size: Size) -> Tensor:
    missing = (0, size[1] - image.shape[-1], 0, size[0] - image.shape[-2])
    return torch.nn.functional.pad(image, missing) if any(missing) else image


class _Tiers:
    """Sizes of the tiers, and their places in the flat state."""

    def __init__(self, channels: tuple[int, ...], images: tuple[Size, ...]) -> None:
        for size, following in itertools.pairwise(images):
            if any(extent > 1 and extent % 2 for extent in size):
                raise InputError(f"images: {size} has an odd extent, which cannot be halved")
            if any(a > b for a, b in zip(reduced(size), following, strict=True)):
                raise InputError(f"images: a tier of {following} cannot hold half of {size}")
        self.channels, self.images = channels, images
        self.features = [count * size[0] * size[1] for count, size in zip(channels, images, strict=True)]

    def split(self, state: Tensor) -> list[Tensor]:
        """Shape (batch, features) to one image per tier."""
        parts = state.split(self.features, -1)
        return [
            part.unflatten(-1, (count, *size))
            for part, count, size in zip(parts, self.channels, self.images, strict=True)
        ]

    def join(self, images: list[Tensor]) -> Tensor:
        """The inverse of `split`."""
        return torch.cat([image.flatten(-3) for image in images], -1)


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
        self.layout = _Tiers(tuple(part.shape[2] for part in own), images)

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
            decimate(to_image(_act(down, spectrum), size), size)
            for down, spectrum, size in zip(self.down, spectra[:-1], self.images[:-1], strict=True)
        ]
        images = []
        for index, size in enumerate(self.images):
            spectrum = _act(self.own[index], spectra[index], adjoint=self._transposed)
            if index < len(kept):
                back = kept[index]
                if self._transposed:
                    following = to_image(
                        _act(self.into[index], spectra[index + 1], adjoint=True), self.images[index + 1]
                    )
                    back = back - following[..., : back.shape[-2], : back.shape[-1]]
                spectrum = spectrum - _act(self.down[index], to_spectrum(spread(back, size)), adjoint=True)
            if index and not self._transposed:
                spectrum = spectrum + _act(self.into[index - 1], to_spectrum(_embed(kept[index - 1], size)))
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
        """That of one convolution, for up to three of them one after the other."""
        unit = unit_of(self.dtype)
        transforms = max(image_rounding(size) for size in self.images)
        relative = unit * (6.0 * transforms + 12.0 * (max(self.layout.channels) + 4))
        own, down, into = self._largest()
        paths = max(own) + max([b * b for b in down], default=0.0)
        paths += max((a * b for a, b in zip(down, into, strict=True)), default=0.0)
        return relative * (paths * state_norm + offset_norm) * FIRST_ORDER


class BlockCayley(FactorisedTransform):
    """``2·(I + step·(I − W))⁻¹ − I`` for a `MultiScale` W, factorised.

    With V = ((1 + step)I − step·T)⁻¹ and Q = D V Dᵀ, a convolution on the decimated grid, the formula of Woodbury gives
    (I + step(I − T + DᵀD))⁻¹ = V − V Dᵀ M D V for M = (I/step + Q)⁻¹, and D times it is M D V/step.

    Args:
        own: see `MultiScale`.
        down: see `MultiScale`.
        into: see `MultiScale`.
        layout: of the tiers.
        step: the step.
    """

    def __init__(
        self,
        own: tuple[Tensor, ...],
        down: tuple[Tensor, ...],
        into: tuple[Tensor, ...],
        layout: _Tiers,
        step: float,
    ) -> None:
        self._layout, self._into, self._transposed = layout, into, False
        self._inverses, self._left, self._right, self._middle = [], [], [], []
        for index, (transfer, size) in enumerate(zip(own, layout.images, strict=True)):
            identity = torch.eye(transfer.shape[-1], dtype=transfer.dtype, device=transfer.device)
            solved = inverse((1.0 + step) * identity - step * transfer)
            self._inverses.append(solved)
            if index == len(down):
                continue
            kernel = down[index]
            self._left.append(solved @ kernel.mH)
            self._right.append(kernel @ solved)
            # Q as a kernel on the full grid, decimated as an image.
            product = (self._right[-1] @ kernel.mH).permute(2, 3, 0, 1)
            seen = decimate(torch.fft.irfft2(product, s=size), size)
            symbol = torch.fft.rfft2(seen).permute(2, 3, 0, 1)
            identity = torch.eye(symbol.shape[-1], dtype=symbol.dtype, device=symbol.device)
            self._middle.append(inverse(identity / step + symbol))

    @override
    def apply(self, state: Tensor) -> Tensor:
        parts = self._layout.split(state)
        solved = self._backwards(parts) if self._transposed else self._forwards(parts)
        return self._layout.join([2.0 * new - old for new, old in zip(solved, parts, strict=True)])

    def _forwards(self, parts: list[Tensor]) -> list[Tensor]:
        images, driven = [], None
        for index, (part, size) in enumerate(zip(parts, self._layout.images, strict=True)):
            spectrum = to_spectrum(part)
            if driven is not None:
                spectrum = spectrum + _act(self._into[index - 1], to_spectrum(_embed(driven, size)))
            found = _act(self._inverses[index], spectrum)
            if index < len(self._middle):
                seen = decimate(to_image(_act(self._right[index], spectrum), size), size)
                driven = to_image(_act(self._middle[index], to_spectrum(seen)), reduced(size))
                found = found - _act(self._left[index], to_spectrum(spread(driven, size)))
            images.append(to_image(found, size))
        return images

    def _backwards(self, parts: list[Tensor]) -> list[Tensor]:
        images: list[Tensor] = []
        for index in reversed(range(len(parts))):
            size = self._layout.images[index]
            spectrum = to_spectrum(parts[index])
            found = _act(self._inverses[index], spectrum, adjoint=True)
            if index < len(self._middle):
                seen = decimate(to_image(_act(self._left[index], spectrum, adjoint=True), size), size)
                driven = _act(self._into[index], to_spectrum(images[0]), adjoint=True)
                following = to_image(driven, self._layout.images[index + 1])
                seen = seen - following[..., : seen.shape[-2], : seen.shape[-1]]
                middle = to_image(_act(self._middle[index], to_spectrum(seen), adjoint=True), reduced(size))
                found = found - _act(self._right[index], to_spectrum(spread(middle, size)), adjoint=True)
            images.insert(0, to_image(found, size))
        return images

    @override
    def norm_estimate(self) -> float:
        if "_rate" not in self.__dict__:
            like = self._inverses[0].real
            probe = torch.empty(8, sum(self._layout.features), dtype=like.dtype, device=like.device)
            self._rate = sampled_norm(self.apply, probe)
        return self._rate


def sampled_norm(function: Callable[[Tensor], Tensor], like: Tensor) -> float:
    """Root-mean-square singular value of a linear map as seen by a few fixed random states of the shape of ``like``."""
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        states = torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)
        return float(function(states).norm() / states.norm())


def _act(transfer: Tensor, spectrum: Tensor, *, adjoint: bool = False) -> Tensor:
    matrices = transfer.flatten(0, 1)
    return torch.bmm(matrices.mH if adjoint else matrices, spectrum)

"""The factorised resolvent of a map over several image sizes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.numerics.linear_algebra import inverse
from wellposed.operators.fourier import to_image, to_spectrum
from wellposed.operators.structured import FactorisedTransform
from wellposed.operators.tiers import Tiers, act, decimate, embedded, halved, spread


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

    Attributes:
        inverses: V for every tier, each at the frequencies of its grid.
        left: V Kᴴ for every tier but the last.
        right: K V.
        middle: M, at the frequencies of the decimated grid.
    """

    def __init__(
        self, own: tuple[Tensor, ...], down: tuple[Tensor, ...], into: tuple[Tensor, ...], layout: Tiers, step: float
    ) -> None:
        self._layout, self._into, self._transposed = layout, into, False
        self.inverses, self.left, self.right, self.middle = [], [], [], []
        for index, (transfer, size) in enumerate(zip(own, layout.images, strict=True)):
            identity = torch.eye(transfer.shape[-1], dtype=transfer.dtype, device=transfer.device)
            solved = inverse((1.0 + step) * identity - step * transfer)
            self.inverses.append(solved)
            if index == len(down):
                continue
            kernel = down[index]
            self.left.append(solved @ kernel.mH)
            self.right.append(kernel @ solved)
            # Q as a kernel on the full grid, decimated as an image.
            product = (self.right[-1] @ kernel.mH).permute(2, 3, 0, 1)
            seen = decimate(torch.fft.irfft2(product, s=size), size)
            symbol = torch.fft.rfft2(seen).permute(2, 3, 0, 1)
            identity = torch.eye(symbol.shape[-1], dtype=symbol.dtype, device=symbol.device)
            self.middle.append(inverse(identity / step + symbol))

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
                spectrum = spectrum + act(self._into[index - 1], to_spectrum(embedded(driven, size)))
            found = act(self.inverses[index], spectrum)
            if index < len(self.middle):
                seen = decimate(to_image(act(self.right[index], spectrum), size), size)
                driven = to_image(act(self.middle[index], to_spectrum(seen)), halved(size))
                found = found - act(self.left[index], to_spectrum(spread(driven, size)))
            images.append(to_image(found, size))
        return images

    def _backwards(self, parts: list[Tensor]) -> list[Tensor]:
        images: list[Tensor] = []
        for index in reversed(range(len(parts))):
            size = self._layout.images[index]
            spectrum = to_spectrum(parts[index])
            found = act(self.inverses[index], spectrum, adjoint=True)
            if index < len(self.middle):
                seen = decimate(to_image(act(self.left[index], spectrum, adjoint=True), size), size)
                driven = act(self._into[index], to_spectrum(images[0]), adjoint=True)
                following = to_image(driven, self._layout.images[index + 1])
                seen = seen - following[..., : seen.shape[-2], : seen.shape[-1]]
                middle = to_image(act(self.middle[index], to_spectrum(seen), adjoint=True), halved(size))
                found = found - act(self.right[index], to_spectrum(spread(middle, size)), adjoint=True)
            images.insert(0, to_image(found, size))
        return images

    @override
    def norm_estimate(self) -> float:
        if "_rate" not in self.__dict__:
            like = self.inverses[0].real
            probe = torch.empty(8, sum(self._layout.features), dtype=like.dtype, device=like.device)
            self._rate = sampled_norm(self.apply, probe)
        return self._rate


def sampled_norm(function: Callable[[Tensor], Tensor], like: Tensor) -> float:
    """Root-mean-square singular value of a linear map as seen by a few fixed random states of the shape of ``like``."""
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        states = torch.randn(like.shape, generator=generator, dtype=torch.float64, device="cpu").to(like)
        return float(function(states).norm() / states.norm())

"""A state map that is a zero-padded convolution, given by its kernel. It has no cheap resolvent, and says so."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Self

import torch
from torch import Tensor

from wellposed.errors import InputError
from wellposed.numerics.convolution_norms import convolution_norm
from wellposed.operators.base import Operator, T
from wellposed.operators.cache import Entry, FactorisationCache


class ZeroPadded(Operator):
    """``W`` as ``torch.nn.functional.conv2d`` with zero padding that keeps the image's size.

    Args:
        kernel: shape (channels, channels, rows, columns), rows and columns odd.
        image: height and width of the state.
        cache: what was computed for the kernel, to share with other operators of the same layer.
        transposed: act as the transpose.
    """

    def __init__(
        self,
        kernel: Tensor,
        image: tuple[int, int],
        cache: FactorisationCache | None = None,
        *,
        transposed: bool = False,
    ) -> None:
        if (
            kernel.ndim != 4
            or kernel.shape[0] != kernel.shape[1]
            or kernel.shape[2] % 2 == 0
            or kernel.shape[3] % 2 == 0
        ):
            raise InputError(
                f"kernel: has shape {tuple(kernel.shape)}; must be (channels, channels, rows, columns) with odd numbers of taps"
            )
        self._kernel, self.image, self._transposed = kernel, image, transposed
        self._cache = FactorisationCache() if cache is None else cache
        self._padding = (kernel.shape[2] // 2, kernel.shape[3] // 2)

    @property
    def channels(self) -> int:
        """Channels of the state."""
        return self._kernel.shape[0]

    @property
    def transposed(self) -> bool:
        """Whether this acts as the transpose."""
        return self._transposed

    @property
    def kernel(self) -> Tensor:
        """The kernel that acts: with inputs and outputs exchanged and taps reversed, for the transpose."""
        return self._kernel.transpose(0, 1).flip(2, 3) if self._transposed else self._kernel

    @property
    def tensors(self) -> tuple[Tensor, ...]:  # noqa: D102
        return (self._kernel,)

    def _entry(self) -> Entry:
        return self._cache.entry(self._kernel.detach())

    def remembered(self, key: Hashable, compute: Callable[[], T], *, oriented: bool = False) -> T:  # noqa: D102
        return self._entry().remembered((key, oriented and self._transposed, self.image), compute)

    def rebuild(self, tensors: tuple[Tensor, ...]) -> Self:  # noqa: D102
        return type(self)(tensors[0], self.image, self._cache, transposed=self._transposed)

    def _convolved(self, kernel: Tensor, state: Tensor) -> Tensor:
        if self._transposed:
            return torch.nn.functional.conv_transpose2d(state, kernel, padding=self._padding)
        return torch.nn.functional.conv2d(state, kernel, padding=self._padding)

    def apply(self, state: Tensor) -> Tensor:  # noqa: D102
        return self._convolved(self._kernel, state)

    def affine(self, state: Tensor, offset: Tensor) -> Tensor:  # noqa: D102
        return self.apply(state) + offset

    def transpose(self) -> Self:  # noqa: D102
        return type(self)(self._kernel, self.image, self._cache, transposed=not self._transposed)

    def upright(self) -> Self:  # noqa: D102
        return self.transpose() if self._transposed else self

    def cayley(self, step: float) -> Operator:
        """Not available.

        Raises:
            InputError: always.
        """
        raise InputError(
            "solver: a zero-padded convolution has no cheap resolvent, which Peaceman–Rachford and Douglas–Rachford need; use "
            "ForwardBackward, Averaged, Picard or Anderson, or a circular convolution"
        )

    def tensor_gradients(self, cotangent: Tensor, state: Tensor) -> tuple[Tensor, ...]:  # noqa: D102
        left, right = (state, cotangent) if self._transposed else (cotangent, state)
        rows, columns = self._padding
        padded = torch.nn.functional.pad(right, (columns, columns, rows, rows))
        # Samples take the place of channels, and channels that of samples.
        correlation = torch.nn.functional.conv2d(padded.transpose(0, 1), left.transpose(0, 1))
        return (correlation.transpose(0, 1),)

    def tensor_tangent(self, tangents: tuple[Tensor, ...], state: Tensor) -> Tensor:  # noqa: D102
        return self._convolved(tangents[0], state)

    def to(self, dtype: torch.dtype) -> Self:  # noqa: D102
        if dtype == self._kernel.dtype:
            return self
        return type(self)(self._kernel.to(dtype), self.image, self._cache, transposed=self._transposed)

    def norm_upper_bound(self) -> float:
        """At most the larger of the sums over taps: ‖W‖₂² ≤ ‖S‖₁‖S‖_∞, S the matrix of absolute tap sums."""
        entry = self._entry()

        def compute() -> float:
            sums = entry.tensor.double().abs().sum((2, 3))
            return float((sums.sum(0).amax() * sums.sum(1).amax()).sqrt()) * (1.0 + 1e-12)

        return entry.remembered("norm", compute)

    def proved_norm(self) -> float:
        """A closer upper bound of ‖W‖₂, at the price of a transform."""
        return self.remembered("proved norm", lambda: convolution_norm(self._kernel, self.image))

    def trace(self) -> float:  # noqa: D102
        centre = self._entry().tensor[:, :, self._padding[0], self._padding[1]].diagonal()
        return float(centre.double().sum()) * self.image[0] * self.image[1]

    def _mean_square(self) -> float:
        """‖W‖_F²/n, exactly: every tap counts the pixels that it finds inside of the image."""
        rows, columns = (
            torch.tensor(
                [max(extent - abs(tap - half), 0) / extent for tap in range(2 * half + 1)], dtype=torch.float64
            )
            for extent, half in zip(self.image, self._padding, strict=True)
        )
        squares = self._entry().tensor.double().cpu().square().sum((0, 1))
        return float(rows @ squares @ columns) / self.channels

    def norm_estimate(self) -> float:  # noqa: D102
        return self._mean_square() ** 0.5

    def displacement_norm_estimate(self) -> float:  # noqa: D102
        mean_trace = self.trace() / (self.channels * self.image[0] * self.image[1])
        return max(1.0 - 2.0 * mean_trace + self._mean_square(), 0.0) ** 0.5

    def rounding(self, state_norm: Tensor, offset_norm: Tensor) -> Tensor:  # noqa: D102
        unit = 0.5 * torch.finfo(self._kernel.dtype).eps
        terms = self._kernel[0].numel() + 2
        gamma = terms * unit / (1.0 - terms * unit)
        # Of sums of absolute values, whose norm the same bound covers.
        return gamma * (self.norm_upper_bound() * state_norm + offset_norm) * 1.01

    def dense(self) -> Tensor:  # noqa: D102
        size = self.channels * self.image[0] * self.image[1]
        identity = torch.eye(size, dtype=self._kernel.dtype, device=self._kernel.device)
        return self.apply(identity.reshape(size, self.channels, *self.image)).reshape(size, size).t()

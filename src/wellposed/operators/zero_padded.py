"""A state map that is a zero-padded convolution, given by its kernel. It has no cheap resolvent, and says so."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.errors import InputError
from wellposed.numerics.convolution_norms import convolution_norm
from wellposed.numerics.outward import FIRST_ORDER, enlarged, rounding_constant, unit_of
from wellposed.numerics.same_convolution import same_convolution
from wellposed.operators.base import Coefficients, Transform
from wellposed.operators.cache import FactorisationCache
from wellposed.operators.structured import StructuredOperator


class ZeroPadded(StructuredOperator):
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
        super().__init__(cache, transposed=transposed)
        self._kernel, self.image = kernel, image
        self._padding = (kernel.shape[2] // 2, kernel.shape[3] // 2)

    @property
    def channels(self) -> int:
        """Channels of the state."""
        return self._kernel.shape[0]

    @property
    def kernel(self) -> Tensor:
        """The kernel that acts: with inputs and outputs exchanged and taps reversed, for the transpose."""
        return self._acting(self._kernel)

    def _acting(self, kernel: Tensor) -> Tensor:
        return kernel.transpose(0, 1).flip(2, 3) if self._transposed else kernel

    @property
    @override
    def tensors(self) -> tuple[Tensor, ...]:
        return (self._kernel,)

    @property
    @override
    def state_shape(self) -> tuple[int, ...]:
        return (self.channels, *self.image)

    @override
    def coefficients(self) -> Coefficients:
        kernel = self.kernel
        own = torch.zeros_like(kernel, dtype=torch.bool)
        own[:, :, self._padding[0], self._padding[1]] = torch.eye(self.channels, dtype=torch.bool, device=kernel.device)
        return Coefficients(kernel, own)

    @override
    def _like(self, tensors: tuple[Tensor, ...], *, transposed: bool) -> Self:
        return type(self)(tensors[0], self.image, self._cache, transposed=transposed)

    @override
    def _factorised(self, step: float, tensors: tuple[Tensor, ...]) -> Transform:
        raise InputError(
            "solver: a zero-padded convolution has no cheap resolvent, which Peaceman–Rachford and Douglas–Rachford need; use "
            "ForwardBackward, Averaged, Picard or Anderson, or a circular convolution"
        )

    def _convolved(self, kernel: Tensor, state: Tensor) -> Tensor:
        if self._transposed and state.dtype != torch.float64:
            return torch.nn.functional.conv_transpose2d(state, kernel, padding=self._padding)
        return same_convolution(state, self._acting(kernel))

    @override
    def apply(self, state: Tensor) -> Tensor:
        return self._convolved(self._kernel, state)

    @override
    def tensor_gradients(self, cotangent: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        left, right = (state, cotangent) if self._transposed else (cotangent, state)
        if not len(state):  # of which torch makes a kernel without inputs
            return (torch.zeros_like(self._kernel),)
        rows, columns = self._padding
        padded = torch.nn.functional.pad(right, (columns, columns, rows, rows))
        # Samples take the place of channels, and channels the place of samples.
        correlation = torch.nn.functional.conv2d(padded.transpose(0, 1), left.transpose(0, 1))
        return (correlation.transpose(0, 1),)

    @override
    def tensor_tangent(self, tangents: tuple[Tensor, ...], state: Tensor) -> Tensor:
        return self._convolved(tangents[0], state)

    def norm_upper_bound(self) -> float:
        """At most the larger of the sums over taps: ‖W‖₂² ≤ ‖S‖₁‖S‖_∞, S the matrix of absolute tap sums."""
        entry = self._entry()

        def compute() -> float:
            sums = entry.tensor.double().abs().sum((2, 3))
            taps, channels = entry.tensor[0, 0].numel(), len(sums)
            return enlarged(float((sums.sum(0).amax() * sums.sum(1).amax()).sqrt()), taps + channels + 2)

        return entry.remembered("norm", compute)

    def proved_norm(self) -> float:
        """A closer upper bound of ‖W‖₂, at the price of a transform."""
        return self.remembered("proved norm", lambda: convolution_norm(self._kernel, self.image))

    @override
    def trace(self) -> float:
        centre = self._entry().tensor[:, :, self._padding[0], self._padding[1]].diagonal()
        return float(centre.double().sum()) * self.image[0] * self.image[1]

    def _mean_square(self) -> float:
        """‖W‖_F²/n, exactly: every tap counts the pixels that it finds inside of the image."""
        rows, columns = (
            torch.tensor(
                [max(extent - abs(tap - half), 0) / extent for tap in range(2 * half + 1)],
                dtype=torch.float64,
                device="cpu",
            )
            for extent, half in zip(self.image, self._padding, strict=True)
        )
        squares = self._entry().tensor.double().cpu().square().sum((0, 1))
        return float(rows @ squares @ columns) / self.channels

    @override
    def norm_estimate(self) -> float:
        return self._mean_square() ** 0.5

    @override
    def displacement_norm_estimate(self) -> float:
        mean_trace = self.trace() / (self.channels * self.image[0] * self.image[1])
        return max(1.0 - 2.0 * mean_trace + self._mean_square(), 0.0) ** 0.5

    @override
    def rounding(self, state_norm: Tensor, offset_norm: Tensor) -> Tensor:
        gamma = rounding_constant(self._kernel[0].numel() + 2, unit_of(self.dtype))
        # The sums of absolute values have a norm below this bound of W's norm, too.
        return gamma * (self.norm_upper_bound() * state_norm + offset_norm) * FIRST_ORDER

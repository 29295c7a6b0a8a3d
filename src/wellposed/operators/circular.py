"""A state map that is a circular convolution, given by its transfer function.

On images of shape (channels, height, width) the discrete Fourier transform turns the map into one channels × channels matrix
per frequency; real maps need half of the frequencies, as in ``torch.fft.rfft2``. Every height and width is allowed.
"""

from __future__ import annotations

from functools import cached_property
from typing import Self

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.errors import InputError
from wellposed.numerics.linear_algebra import inverse
from wellposed.numerics.outward import FIRST_ORDER, UNIT, enlarged_norm, unit_of
from wellposed.operators.base import FrequencyForm
from wellposed.operators.cache import FactorisationCache
from wellposed.operators.fourier import image_rounding, multiplicity, to_image, to_spectrum
from wellposed.operators.structured import StructuredOperator


class Circular(StructuredOperator):
    """``W`` by its transfer function, acting on states of shape (batch, channels, height, width).

    The map is the real part of the circulant with these matrices; where a frequency is its own mirror image, only the
    symmetric part of what is stored counts, as in ``torch.fft.irfft2``.

    Args:
        transfer: complex, shape (height, width//2 + 1, channels, channels).
        width: of the image; its parity cannot be told from the transfer function.
        cache: factorisations to share with other operators of the same layer.
        transposed: act as the transpose.
    """

    def __init__(
        self, transfer: Tensor, width: int, cache: FactorisationCache | None = None, *, transposed: bool = False
    ) -> None:
        if transfer.ndim != 4 or transfer.shape[2] != transfer.shape[3] or not transfer.is_complex():
            raise InputError(
                f"transfer: has shape {tuple(transfer.shape)} and dtype {transfer.dtype}; must be complex, (height, "
                "width//2 + 1, channels, channels)"
            )
        if width // 2 + 1 != transfer.shape[1]:
            raise InputError(f"width={width}: the transfer function has {transfer.shape[1]} columns, not width//2 + 1")
        super().__init__(cache, transposed=transposed)
        self._transfer, self._width = transfer, width

    @cached_property
    def _matrices(self) -> Tensor:
        """The matrices that act, one per frequency."""
        matrices = self._transfer.flatten(0, 1)
        return matrices.mH.resolve_conj() if self._transposed else matrices

    @property
    def channels(self) -> int:
        """Channels of the state."""
        return self._transfer.shape[2]

    @property
    def image(self) -> tuple[int, int]:
        """Height and width of the state."""
        return self._transfer.shape[0], self._width

    @property
    @override
    def tensors(self) -> tuple[Tensor, ...]:
        return (self._transfer,)

    @property
    @override
    def state_shape(self) -> tuple[int, ...]:
        return (self.channels, *self.image)

    @override
    def frequency_form(self) -> FrequencyForm | None:
        if self._transposed:
            return None
        return FrequencyForm(
            self._transfer.detach(), self.image, torch.ones(self.channels, dtype=torch.float64, device="cpu")
        )

    @override
    def symmetric_parts(self) -> list[tuple[Tensor, float]]:
        return [displacement(self._transfer)]

    @override
    def _like(self, tensors: tuple[Tensor, ...], *, transposed: bool) -> Self:
        return type(self)(tensors[0], self._width, self._cache, transposed=transposed)

    @override
    def _factorised(self, step: float, tensors: tuple[Tensor, ...]) -> Circular:
        return Circular(cayley_transfer(tensors[0], step), self._width)

    @override
    def apply(self, state: Tensor) -> Tensor:
        return to_image(torch.bmm(self._matrices, to_spectrum(state)), self.image)

    def _multiplicity(self) -> Tensor:
        """See `multiplicity`; shape (1, width//2 + 1, 1, 1)."""
        return multiplicity(self._width, self._transfer.device)[None, :, None, None]

    @override
    def tensor_gradients(self, cotangent: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        left, right = (state, cotangent) if self._transposed else (cotangent, state)
        outer = torch.bmm(to_spectrum(left), to_spectrum(right).mH).reshape(self._transfer.shape)
        height, width = self.image
        return (outer * (self._multiplicity() / (height * width)).to(state.dtype),)

    @override
    def tensor_tangent(self, tangents: tuple[Tensor, ...], state: Tensor) -> Tensor:
        matrices = tangents[0].flatten(0, 1)
        return to_image(torch.bmm(matrices.mH if self._transposed else matrices, to_spectrum(state)), self.image)

    def _squares(self) -> Tensor:
        """Squared Frobenius norm of the matrix at each frequency, float64, shape (height, width//2 + 1)."""
        entry = self._entry()

        def compute() -> Tensor:
            parts = torch.view_as_real(entry.tensor).flatten(2)
            return torch.linalg.vector_norm(parts, dim=2, dtype=torch.float64).square()

        return entry.remembered("squares", compute)

    @override
    def norm_upper_bound(self) -> float:
        # The norm of the map is the largest one at any frequency.
        return enlarged_norm(float(self._squares().amax()) ** 0.5, 2 * self.channels**2 + 4)

    @override
    def trace(self) -> float:
        traces = self._entry().tensor.diagonal(dim1=2, dim2=3).real.double().sum(2)
        return float((traces * self._multiplicity()[..., 0, 0]).sum())

    def _mean_square(self, squares: Tensor) -> float:
        height, width = self.image
        total = float((squares * self._multiplicity()[..., 0, 0]).sum())
        return max(total, 0.0) / (self.channels * height * width)

    @override
    def norm_estimate(self) -> float:
        return self._mean_square(self._squares()) ** 0.5

    @override
    def displacement_norm_estimate(self) -> float:
        size = self.channels * self.image[0] * self.image[1]

        def root_mean_square() -> float:  # ‖I − W‖_F² = n − 2·tr W + ‖W‖_F², without forming I − W
            return max(1.0 - 2.0 * self.trace() / size + self._mean_square(self._squares()), 0.0) ** 0.5

        return self.remembered("displacement", root_mean_square)

    def rounding(self, state_norm: Tensor, offset_norm: Tensor) -> Tensor:
        """It takes each FFT to err by at most `image_rounding` relative to its norm."""
        unit = unit_of(self.dtype)
        height, width = self.image
        relative = unit * (2.0 * image_rounding((height, width)) + 4.0 * (self.channels + 4))
        return relative * (self.norm_upper_bound() * state_norm + offset_norm) * FIRST_ORDER


def displacement(transfer: Tensor) -> tuple[Tensor, float]:
    """I − T at every stored frequency, shape (frequencies, n, n), complex128 on the CPU, and its rounding error."""
    stored = transfer.detach().to("cpu", torch.complex128).flatten(0, 1)
    identity = torch.eye(stored.shape[-1], dtype=stored.dtype, device="cpu")
    return identity - stored, 2.0 * UNIT * (1.0 + float(stored.abs().sum(2).amax()))


def cayley_transfer(transfer: Tensor, step: float) -> Tensor:
    """``2·(I + step·(I − T))⁻¹ − I`` at every frequency."""
    identity = torch.eye(transfer.shape[-1], dtype=transfer.dtype, device=transfer.device)
    return 2.0 * inverse((1.0 + step) * identity - step * transfer) - identity

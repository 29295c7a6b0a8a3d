"""A state map that is a circular convolution, given by its transfer function.

On images of shape (channels, height, width) the discrete Fourier transform turns the map into one channels × channels matrix
per frequency; real maps need half of the frequencies, as in ``torch.fft.rfft2``. Every height and width is allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Self

import torch
from torch import Tensor

from wellposed.errors import InputError
from wellposed.numerics.linear_algebra import inverse
from wellposed.operators.base import Operator, T
from wellposed.operators.cache import Entry, FactorisationCache, version_of
from wellposed.operators.fourier import COMPLEX, image_rounding, multiplicity, to_image, to_spectrum


class Circular(Operator):
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
        self._transfer, self._width = transfer, width
        self._cache = FactorisationCache() if cache is None else cache
        self._transposed = transposed
        self._found: tuple[int | None, Entry] | None = None
        matrices = transfer.flatten(0, 1)
        self._matrices = matrices.mH if transposed else matrices

    @property
    def channels(self) -> int:
        """Channels of the state."""
        return self._transfer.shape[2]

    @property
    def image(self) -> tuple[int, int]:
        """Height and width of the state."""
        return self._transfer.shape[0], self._width

    @property
    def tensors(self) -> tuple[Tensor, ...]:  # noqa: D102
        return (self._transfer,)

    def remembered(self, key: Hashable, compute: Callable[[], T], *, oriented: bool = False) -> T:  # noqa: D102
        return self._entry().remembered((key, oriented and self._transposed, self._width), compute)

    def rebuild(self, tensors: tuple[Tensor, ...]) -> Self:  # noqa: D102
        return type(self)(tensors[0], self._width, self._cache, transposed=self._transposed)

    def apply(self, state: Tensor) -> Tensor:  # noqa: D102
        return to_image(torch.bmm(self._matrices, to_spectrum(state)), self.image)

    def affine(self, state: Tensor, offset: Tensor) -> Tensor:  # noqa: D102
        return self.apply(state) + offset

    def transpose(self) -> Self:  # noqa: D102
        flipped = type(self)(self._transfer, self._width, self._cache, transposed=not self._transposed)
        flipped._found = self._found
        return flipped

    def upright(self) -> Self:  # noqa: D102
        return self.transpose() if self._transposed else self

    def cayley(self, step: float) -> Circular:  # noqa: D102
        transfer = self._transfer
        if (
            transfer.requires_grad and torch.is_grad_enabled()
        ):  # unrolled differentiation: keep the graph, cache nothing
            transform = cayley_transfer(transfer, step)
        else:
            transform = self._cache.transform(
                self._entry(), (step, self._width), lambda stored: cayley_transfer(stored, step)
            )
        return Circular(transform, self._width, transposed=self._transposed)

    def _multiplicity(self) -> Tensor:
        """See `multiplicity`; shape (1, width//2 + 1, 1, 1)."""
        return multiplicity(self._width, self._transfer.device)[None, :, None, None]

    def tensor_gradients(self, cotangent: Tensor, state: Tensor) -> tuple[Tensor, ...]:  # noqa: D102
        left, right = (state, cotangent) if self._transposed else (cotangent, state)
        outer = torch.bmm(to_spectrum(left), to_spectrum(right).mH).reshape(self._transfer.shape)
        height, width = self.image
        return (outer * (self._multiplicity() / (height * width)).to(state.dtype),)

    def tensor_tangent(self, tangents: tuple[Tensor, ...], state: Tensor) -> Tensor:  # noqa: D102
        matrices = tangents[0].flatten(0, 1)
        return to_image(torch.bmm(matrices.mH if self._transposed else matrices, to_spectrum(state)), self.image)

    def to(self, dtype: torch.dtype) -> Self:  # noqa: D102
        wanted = COMPLEX[dtype]
        if wanted == self._transfer.dtype:
            return self
        return type(self)(self._transfer.to(wanted), self._width, self._cache, transposed=self._transposed)

    def _entry(self) -> Entry:
        version = version_of(self._transfer)
        if self._found is None or version is None or self._found[0] != version:
            self._found = (version, self._cache.entry(self._transfer.detach()))
        return self._found[1]

    def _squares(self) -> Tensor:
        """Squared Frobenius norm of the matrix at each frequency, float64, shape (height, width//2 + 1)."""
        entry = self._entry()

        def compute() -> Tensor:
            return torch.view_as_real(entry.tensor).double().square().sum((2, 3, 4))

        return entry.remembered("squares", compute)

    def norm_upper_bound(self) -> float:  # noqa: D102
        # The norm of the map is the largest one at any frequency.
        return float(self._squares().amax()) ** 0.5 * (1.0 + 1e-12)

    def trace(self) -> float:  # noqa: D102
        traces = self._entry().tensor.diagonal(dim1=2, dim2=3).real.double().sum(2)
        return float((traces * self._multiplicity()[..., 0, 0]).sum())

    def _mean_square(self, squares: Tensor) -> float:
        height, width = self.image
        total = float((squares * self._multiplicity()[..., 0, 0]).sum())
        return max(total, 0.0) / (self.channels * height * width)

    def norm_estimate(self) -> float:  # noqa: D102
        return self._mean_square(self._squares()) ** 0.5

    def displacement_norm_estimate(self) -> float:  # noqa: D102
        height, width = self.image
        # ‖I − W‖_F² = n − 2·tr W + ‖W‖_F², without forming I − W.
        return (
            max(1.0 - 2.0 * self.trace() / (self.channels * height * width) + self._mean_square(self._squares()), 0.0)
            ** 0.5
        )

    def rounding(self, state_norm: Tensor, offset_norm: Tensor) -> Tensor:
        """As everywhere, taking each FFT to err by at most `image_rounding` relative to its norm."""
        unit = 0.5 * torch.finfo(torch.float64 if self._transfer.dtype == torch.complex128 else torch.float32).eps
        height, width = self.image
        relative = unit * (2.0 * image_rounding((height, width)) + 4.0 * (self.channels + 4))
        return relative * (self.norm_upper_bound() * state_norm + offset_norm) * 1.01

    def dense(self) -> Tensor:  # noqa: D102
        height, width = self.image
        size = self.channels * height * width
        real = torch.float64 if self._transfer.dtype == torch.complex128 else torch.float32
        identity = torch.eye(size, dtype=real, device=self._transfer.device)
        return self.apply(identity.reshape(size, self.channels, height, width)).reshape(size, size).t()


def cayley_transfer(transfer: Tensor, step: float) -> Tensor:
    """``2·(I + step·(I − T))⁻¹ − I`` at every frequency."""
    identity = torch.eye(transfer.shape[-1], dtype=transfer.dtype, device=transfer.device)
    return 2.0 * inverse((1.0 + step) * identity - step * transfer) - identity

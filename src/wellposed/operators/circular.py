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
from wellposed.linear_algebra import inverse
from wellposed.operators.base import Operator, T
from wellposed.operators.cache import Entry, FactorisationCache

_COMPLEX = {torch.float32: torch.complex64, torch.float64: torch.complex128}


def transfer_function(kernel: Tensor, height: int, width: int) -> Tensor:
    """The transfer function of ``torch.nn.functional.conv2d`` with circular padding, centred, stride one.

    Args:
        kernel: shape (out_channels, in_channels, rows, columns), rows and columns odd and at most the image's.
        height: of the image.
        width: of the image.

    Returns:
        Complex, shape (height, width//2 + 1, out_channels, in_channels), with its graph.
    """
    rows, columns = kernel.shape[2:]
    if rows % 2 == 0 or columns % 2 == 0 or rows > height or columns > width:
        raise InputError(
            f"kernel: has {rows} × {columns} taps; needs odd numbers of them, no larger than the image of {height} × {width}"
        )
    padded = torch.nn.functional.pad(kernel, (0, width - columns, 0, height - rows))
    centred = torch.roll(padded, (-(rows // 2), -(columns // 2)), (2, 3))
    # conv2d correlates: its transfer function is the conjugate of the kernel's transform.
    return torch.fft.rfft2(centred).conj().permute(2, 3, 0, 1).resolve_conj().contiguous()


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
        self._found: tuple[int, Entry] | None = None
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

    def _spectrum(self, state: Tensor) -> Tensor:
        """Shape (batch, channels, height, width) to (frequencies, channels, batch)."""
        return torch.fft.rfft2(state).flatten(2).permute(2, 1, 0)

    def _image(self, spectrum: Tensor) -> Tensor:
        half = (self.image[0], self._width // 2 + 1)
        return torch.fft.irfft2(spectrum.permute(2, 1, 0).unflatten(2, half), s=self.image)

    def apply(self, state: Tensor) -> Tensor:  # noqa: D102
        return self._image(torch.bmm(self._matrices, self._spectrum(state)))

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
            transform = _cayley(transfer, step)
        else:
            transform = self._cache.transform(self._entry(), step, lambda stored: _cayley(stored, step))
        return Circular(transform, self._width, transposed=self._transposed)

    def _multiplicity(self) -> Tensor:
        """How many frequencies each stored one stands for, shape (1, width//2 + 1, 1, 1)."""
        count = torch.full((self._transfer.shape[1],), 2.0, dtype=torch.float64, device=self._transfer.device)
        count[0] = 1.0
        if self._width % 2 == 0:
            count[-1] = 1.0
        return count[None, :, None, None]

    def tensor_gradients(self, cotangent: Tensor, state: Tensor) -> tuple[Tensor, ...]:  # noqa: D102
        left, right = (state, cotangent) if self._transposed else (cotangent, state)
        outer = torch.bmm(self._spectrum(left), self._spectrum(right).mH).reshape(self._transfer.shape)
        height, width = self.image
        return (outer * (self._multiplicity() / (height * width)).to(state.dtype),)

    def tensor_tangent(self, tangents: tuple[Tensor, ...], state: Tensor) -> Tensor:  # noqa: D102
        matrices = tangents[0].flatten(0, 1)
        return self._image(torch.bmm(matrices.mH if self._transposed else matrices, self._spectrum(state)))

    def to(self, dtype: torch.dtype) -> Self:  # noqa: D102
        wanted = _COMPLEX[dtype]
        if wanted == self._transfer.dtype:
            return self
        return type(self)(self._transfer.to(wanted), self._width, self._cache, transposed=self._transposed)

    def _entry(self) -> Entry:
        version = self._transfer._version
        if self._found is None or self._found[0] != version:
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
        """As everywhere, taking each FFT to err by at most `fft_rounding` relative to its norm."""
        unit = 0.5 * torch.finfo(torch.float64 if self._transfer.dtype == torch.complex128 else torch.float32).eps
        height, width = self.image
        transforms = 2.0 * (fft_rounding(height) + fft_rounding(width))
        relative = unit * (transforms + 4.0 * (self.channels + 4))
        return relative * (self.norm_upper_bound() * state_norm + offset_norm) * 1.01

    def dense(self) -> Tensor:  # noqa: D102
        height, width = self.image
        size = self.channels * height * width
        real = torch.float64 if self._transfer.dtype == torch.complex128 else torch.float32
        identity = torch.eye(size, dtype=real, device=self._transfer.device)
        return self.apply(identity.reshape(size, self.channels, height, width)).reshape(size, size).t()


def _cayley(transfer: Tensor, step: float) -> Tensor:
    """``2·(I + step·(I − T))⁻¹ − I`` at every frequency."""
    identity = torch.eye(transfer.shape[-1], dtype=transfer.dtype, device=transfer.device)
    return 2.0 * inverse((1.0 + step) * identity - step * transfer) - identity


def fft_rounding(size: int) -> float:
    """Error of a one-dimensional FFT in the Euclidean norm, in units of the last place relative to the norm of its value.

    A generous multiple of what mixed-radix algorithms are proved to need (Higham 2002, section 24.1, for radix two): each prime
    factor p costs a sum of p products with tabulated roots of unity. Other ways of treating large primes cost less.
    """
    rest, cost, factor = size, 0.0, 2
    while rest > 1:
        factor = rest if factor * factor > rest else factor
        while rest % factor == 0:
            rest //= factor
            cost += 4.0 * factor + 8.0
        factor += 1
    return cost

"""Matrices above UUᵀ at every frequency, for an input map U that is a convolution with zero padding or a circular one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wellposed.numerics.convolution_norms import are_semidefinite, largest_singular_value
from wellposed.numerics.outward import enlarged, rounding_constant

_STEPS = 60  # of the weights of a mean of the frequencies' matrices
_FLOOR = 1e-7  # of the mean's eigenvalues, relative to the square of the norm: keeps it regular


def circular_gram(kernel: Tensor, image: tuple[int, int], stride: int) -> tuple[Tensor, float]:
    """UUᵀ at every frequency, for a circular U, and its error.

    Where a border of the state is kept zero a zero-padded U may as well wrap around: what the border gets does not matter.
    """
    lines = torch.arange(image[0], device="cpu"), torch.arange(image[1] // 2 + 1, device="cpu")
    return _gram(_transfer(kernel, lines, image, stride), kernel)


def constant_gram(kernel: Tensor, image: tuple[int, int], stride: int) -> tuple[Tensor, float]:
    """The same matrix at every frequency, above those of U on a grid large enough for zero padding, and its error.

    A zero-padded convolution is a part of the circular one on such a grid. Of all matrices that are above its frequencies',
    which multiplicative steps approach, the one of least volume is taken.
    """
    grid = (image[0] + kernel.shape[2], image[1] + kernel.shape[3])
    lines = torch.arange(grid[0], device="cpu"), torch.arange(grid[1] // 2 + 1, device="cpu")
    transfer = _transfer(kernel, lines, grid, stride)
    norm = largest_singular_value(transfer)
    matrices, error = _gram(transfer, kernel)
    count, size = len(matrices), matrices.shape[1]
    floor = torch.eye(size, dtype=torch.float64, device="cpu") * (_FLOOR * norm**2 + error)
    weights = torch.full((count,), 1.0 / count, dtype=torch.float64, device="cpu")
    for _ in range(_STEPS):
        mean = torch.einsum("f,fab->ab", weights, matrices.real) + floor
        leverage = torch.einsum("fai,ab,fbi->f", transfer.conj(), torch.linalg.inv(mean).to(transfer.dtype), transfer)
        weights = weights * leverage.real
        weights = weights / weights.sum()
    mean = torch.einsum("f,fab->ab", weights, matrices.real) + floor
    inner = transfer.mH @ torch.linalg.inv(mean).to(transfer.dtype) @ transfer
    largest = float(torch.linalg.eigvalsh(inner)[:, -1].amax())
    constant = largest * mean + floor
    rounding = rounding_constant(4) * float(constant.abs().sum())  # of the difference
    if not bool(are_semidefinite(constant - matrices, torch.full((count,), error + rounding, device="cpu")).all()):
        constant = torch.eye(size, dtype=torch.float64, device="cpu") * enlarged(norm * norm, 1)
    frequencies = image[0] * (image[1] // 2 + 1)
    return constant.to(torch.complex128).expand(frequencies, size, size), 0.0


def _transfer(kernel: Tensor, lines: tuple[Tensor, Tensor], grid: tuple[int, int], stride: int) -> Tensor:
    """Of a convolution with a stride on a grid of its outputs, by sums over its taps.

    Every phase of the pixels of the input counts as a channel; tap t of phase p is that of pixel (t − p)/stride. Complex128,
    shape (frequencies, out, in·stride²).
    """
    rows, columns = kernel.shape[2:]
    found = torch.zeros(
        len(lines[0]) * len(lines[1]),
        kernel.shape[0],
        kernel.shape[1],
        stride,
        stride,
        dtype=torch.complex128,
        device="cpu",
    )
    for row in range(rows):
        for column in range(columns):
            at = row - rows // 2, column - columns // 2
            turned = [
                torch.remainder(line * (tap // stride), extent).double() * (2.0 * math.pi / extent)
                for line, tap, extent in zip(lines, at, grid, strict=True)
            ]
            angle = (turned[0][:, None] + turned[1][None, :]).flatten()
            phase = torch.complex(angle.cos(), angle.sin())
            found[:, :, :, at[0] % stride, at[1] % stride] += phase[:, None, None] * kernel[None, :, :, row, column]
    return found.flatten(2)


def _gram(transfer: Tensor, kernel: Tensor) -> tuple[Tensor, float]:
    """``K Kᴴ`` at every frequency, and a bound on its error in the Euclidean norm."""
    taps = kernel.abs().sum((2, 3))
    energy = float(taps.square().sum())  # above the square of the Frobenius norm at any frequency
    gram = transfer @ transfer.mH
    # Sums over taps with tabulated angles of up to 4π, then products; the kernel may be rounded once itself.
    return gram, 4.0 * rounding_constant(kernel[0].numel() + 68) * energy

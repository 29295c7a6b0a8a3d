"""Convolutions at the frequencies of a grid: their matrices there, and norms of zero-padded ones."""

import math

import numpy as np

from .case import Block, Case
from .proofs import SAFETY, UNIT, Array, Refuted, near_one, rounding_constant, semidefinite


def transfer(kernel: Array, grid: tuple[int, int], stride: int = 1) -> Array:
    """Of a correlation with centred taps, circular on a grid of its outputs: shape (rows, columns//2 + 1, out, in·stride²).

    Every phase of the pixels of the input counts as a channel; tap t of phase p is the tap of pixel (t − p)/stride. The other
    half of the frequencies has the complex conjugates.
    """
    rows, columns = kernel.shape[2:]
    down, right = np.arange(grid[0]), np.arange(grid[1] // 2 + 1)
    found = np.zeros((len(down), len(right), *kernel.shape[:2], stride, stride), dtype=np.complex128)
    for row in range(rows):
        for column in range(columns):
            at = row - rows // 2, column - columns // 2
            turned = (down * (at[0] // stride) % grid[0] / grid[0])[:, None]
            turned = turned + right * (at[1] // stride) % grid[1] / grid[1]
            phase = np.exp(2j * math.pi * turned)[:, :, None, None]
            found[:, :, :, :, at[0] % stride, at[1] % stride] += phase * kernel[:, :, row, column]
    return found.reshape(*found.shape[:3], -1)


def monotone_transfer(a: Array, b: Array, m: float, grid: tuple[int, int]) -> tuple[Array, Array]:
    """(1 − m)I − AᴴA + B − Bᴴ at every frequency, and how many units in the last place each entry may be off."""
    first, second, eye = np.abs(a).sum((2, 3)), np.abs(b).sum((2, 3)), np.eye(len(a))
    a, b = transfer(a, grid), transfer(b, grid)
    off = (64.0 + len(eye)) * first.T @ first + 64.0 * (second + second.T) + 8.0 * (1.0 + abs(m)) * eye
    return (1.0 - m) * eye - a.conj().swapaxes(2, 3) @ a + b - b.conj().swapaxes(2, 3), off


def all_semidefinite(matrices: Array, error: float | Array) -> bool:
    """Whether Hermitian matrices, shape (*, n, n), give or take an error each, are proved positive semidefinite."""
    flat = matrices.reshape(-1, *matrices.shape[-2:])
    errors = np.broadcast_to(error, matrices.shape[:-2]).reshape(-1)
    for matrix, missing in zip(flat, errors, strict=True):
        form = np.block([[matrix.real, -matrix.imag], [matrix.imag, matrix.real]])
        if not semidefinite(0.5 * (form + form.T), float(missing) + 4.0 * UNIT * float(np.abs(form).sum(1).max())):
            return False
    return True


def gram(kernel: Array, grid: tuple[int, int], stride: int) -> tuple[Array, float]:
    """U Uᴴ at every frequency, and a bound of its error in the Euclidean norm."""
    found = transfer(kernel, grid, stride)
    energy = float((np.abs(kernel).sum((2, 3)) ** 2).sum())  # above the square of the Frobenius norm anywhere
    return found @ found.conj().swapaxes(-1, -2), 4.0 * rounding_constant(kernel[0].size + 64) * energy


def padded_grid(kernel: Array, image: tuple[int, int], stride: int) -> tuple[int, int]:
    """A grid of outputs so large that a zero-padded convolution is a part of the circular one on it."""
    rows, columns = (-(-(extent + taps - 1) // stride) for extent, taps in zip(image, kernel.shape[2:], strict=True))
    return rows, columns


def zero_padded_norm_at_most(kernel: Array, image: tuple[int, int], stride: int, value: float) -> bool:
    """Whether the norm of a zero-padded, strided convolution of images of this size is proved, for every padding."""
    scaled, exponent = near_one(kernel)
    if not scaled.any():
        return value >= 0.0
    bound = math.ldexp(value, -exponent)
    if not 0.0 < bound < 1e100:
        return False
    squares, error = gram(scaled, padded_grid(kernel, image, stride), stride)
    return all_semidefinite(bound**2 * np.eye(squares.shape[-1]) - squares, error + 4.0 * UNIT * bound**2)


def check_margin(case: Case, block: Block, part: str, gaps: Array, off: Array) -> None:
    """What numbers may differ by from what the weights give must be small against the least eigenvalue of the Hermitian parts."""
    unit = float(np.finfo(case.evidence[f"{block['name']}/{part}"].dtype).eps)
    least = float(np.linalg.eigvalsh(0.5 * (gaps + gaps.conj().swapaxes(-1, -2)))[..., 0].min())
    if not least >= SAFETY * unit * float(np.abs(off).sum(-1).max()):
        raise Refuted(
            "rounding", f"{block['name']}: that of W is not small against what keeps it well posed; use float64"
        )


def frequencies(case: Case, block: Block, part: str, exact: Array, off: Array) -> Array:
    """Complex matrices of the evidence, stored as real and imaginary parts, once they are shown to be what the weights give."""
    parts = np.stack([exact.real, exact.imag], -1)
    stored = case.formed(block, part, parts, np.broadcast_to(off[..., None], parts.shape))
    return stored[..., 0] + 1j * stored[..., 1]

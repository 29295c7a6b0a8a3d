"""Circular convolutions of images by one matrix for every frequency: what is stored, real kernels, and inequalities of all.

A real circular convolution of H × V pixels is unitarily equivalent to its matrices at H·V frequencies (h, v). Those with v > V//2
are the complex conjugates of those at (−h, −v), and are not stored; of the matrices at (h, v) and (−h, −v) that both are stored,
for v = 0 and for v = V/2, the functions of the format use the mean of one and the conjugate of the other.
"""

import itertools
from functools import cache
from typing import Any

import numpy as np

from .node import Node
from .proofs import FOLDED, UNIT, Array, Refuted, like, nearest, require, rounding_constant, semidefinite, up

_BITS = 256  # of fixed-point numbers
LONGEST = 4096  # rows or columns of an image


@cache
def waves(count: int) -> Array:
    """The powers of e^(2πi/n), real and imaginary parts rounded to the nearest float64; shape (n,)."""
    one = 1 << _BITS
    turn = 2 * (16 * _inverse_tangent(5) - 4 * _inverse_tangent(239))  # Machin's formula for π
    found = np.empty(count, np.complex128)
    for place in range(count):
        angle, term, parts = turn * place // count, one, [one, 0]
        order = 0
        while term:
            order += 1
            term = term * angle // (order << _BITS)
            parts[order % 2] += term if order % 4 < 2 else -term
        # Beyond those that vanish no sine or cosine is as small as the errors of these sums.
        found[place] = complex(*(0.0 if abs(part) < 1 << _BITS // 2 else part / one for part in parts))
    return found


def _inverse_tangent(number: int) -> int:
    """The arc tangent of 1/number, by its series."""
    power, total, place = (1 << _BITS) // number, 0, 1
    while power:
        total += power // place if place % 4 == 1 else -(power // place)
        power, place = power // number**2, place + 2
    return total


def check_turns(node: Node, image: tuple[int, ...]) -> None:
    """The roots of unity from which a node makes its transforms are the nearest float64 numbers, for images of this size."""
    for role, extent in zip(("turn_rows", "turn_columns"), image, strict=True):
        turn = node.numbers[role]
        require(
            turn.shape == (2, extent) and extent <= LONGEST, "transform", f"{node.name}: {role} is for other images"
        )
        right = waves(extent)
        good = (turn[0] == right.real).all() and (turn[1] == right.imag).all()
        require(good, "transform", f"{node.name}: {role} are not the nearest numbers to cosines and sines")


def spectrum(node: Node, role: str, image: tuple[int, ...], shape: tuple[int, ...]) -> Array:
    """The matrices by which a node acts at the stored frequencies, shape (H, V//2 + 1, *shape); they round once or not at all.

    Args:
        node: whose numbers hold them.
        role: of the numbers, real and imaginary parts.
        image: H and V.
        shape: of one matrix.
    """
    numbers = node.numbers[role]
    wanted = (image[0], image[1] // 2 + 1, *shape, 2)
    require(numbers.shape == wanted, "shapes", f"{node.name}: {role} has shape {numbers.shape} instead of {wanted}")
    i = like(numbers, np.array(1j))
    found = numbers[..., 0] + i * numbers[..., 1]
    own = counts(image)[0] == 1.0
    mirrored = np.flip(np.roll(found, -1, 0), 0).conj()  # what is stored at (−h, v)
    means: Array = np.where(own[:, None, None], 0.5 * (found + mirrored), found)
    return means


def counts(image: tuple[int, ...]) -> Array:
    """How many frequencies each stored one stands for: shape (H, V//2 + 1)."""
    found = np.full((image[0], image[1] // 2 + 1), 2.0)
    found[:, [0, -1] if image[1] % 2 == 0 else [0]] = 1.0
    return found


def transfer(kernel: Array, grid: tuple[int, ...], stride: tuple[int, ...] = (1, 1)) -> Array:
    """Of a correlation with centred taps, circular on a grid of its outputs: shape (H, V//2 + 1, out, in·strides).

    Output o sees pixel o·stride + t − taps//2 through tap t. Every phase of the pixels counts as a channel. An entry is off by
    `rounding_constant` of the taps and 16 of the sum of the absolute values of its taps.
    """
    rows, columns = kernel.shape[2:]
    down, right = np.arange(grid[0]), np.arange(grid[1] // 2 + 1)
    parts = dict[tuple[int, ...], Any]()  # by phases
    for row in range(rows):
        for column in range(columns):
            at = row - rows // 2, column - columns // 2
            vertical, horizontal = (waves(extent) for extent in grid)
            phase = (
                vertical[down * (at[0] // stride[0]) % grid[0]][:, None]
                * horizontal[right * (at[1] // stride[1]) % grid[1]]
            )
            seen = like(kernel, phase[:, :, None, None]) * kernel[:, :, row, column]
            place = at[0] % stride[0], at[1] % stride[1]
            parts[place] = parts[place] + seen if place in parts else seen
    phases = itertools.product(*map(range, stride))
    found: Array = np.stack([parts.get(place, 0.0 * seen) for place in phases], -1)
    return found.reshape(*found.shape[:3], -1)


def gram(kernel: Array, grid: tuple[int, ...], stride: tuple[int, ...]) -> tuple[Array, Any]:
    """U Uᴴ at every frequency for the correlation U of `transfer`, and a bound of its error in the Euclidean norm.

    Entries of the kernel may be off by `FOLDED` roundings.
    """
    found = transfer(kernel, grid, stride)
    energy = (np.abs(kernel).sum((2, 3)) ** 2).sum()  # above the square of the Frobenius norm anywhere
    return found @ found.conj().swapaxes(-1, -2), 4.0 * rounding_constant(kernel[0].size + 64 + FOLDED) * energy


def all_semidefinite(matrices: Array, error: Any) -> bool:
    """Whether Hermitian matrices, shape (*, n, n), give or take an error each, are proved positive semidefinite."""
    flat = matrices.reshape(-1, *matrices.shape[-2:])
    errors = np.broadcast_to(error, matrices.shape[:-2], subok=True).reshape(-1)
    for matrix, missing in zip(flat, errors, strict=True):
        form = np.block([[matrix.real, -matrix.imag], [matrix.imag, matrix.real]])
        if not semidefinite(0.5 * (form + form.T), missing + 4.0 * UNIT * np.abs(form).sum(1).max()):
            return False
    return True


def norm_of_gram(squares: Array, error: Any, exponent: int) -> Any:
    """A proved bound of the largest singular value of matrices U, from U Uᴴ over 4 to a power, give or take an error."""
    if not squares.any():
        return up(np.ldexp(np.sqrt(error), exponent) * (1.0 + 2.0 * UNIT))
    eye, least, slack = np.eye(squares.shape[-1]), np.linalg.eigvalsh(nearest(squares))[..., -1].max(), 1e-13
    while slack < 1.0:
        bound = (like(squares, least) + error) * (1.0 + slack)
        if all_semidefinite(bound * eye - squares, error + 4.0 * UNIT * bound):
            return up(np.ldexp(np.sqrt(bound) * (1.0 + 2.0 * UNIT), exponent))
        slack *= 4.0
    raise Refuted("norm", "that of a convolution is lost to rounding")

"""Bounds of norms and eigenvalues that hold for the stored numbers, rounding errors included.

Everything here runs in float64 on the CPU. A claim is proved by one Cholesky factorisation: when the factorisation of
``A − c·I`` succeeds in floating point and c covers the rounding errors of that very factorisation, A is positive
semidefinite (Rump, "Verification of positive definiteness", BIT 46, 2006). Power iteration, a lower bound, proves nothing.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wellposed.errors import InputError
from wellposed.numerics.outward import UNIT, rounding_constant

Matrix = NDArray[np.float64]
_TINY = float(np.finfo(np.float64).tiny)


def to_float64(matrix: Tensor, name: str = "matrix") -> Matrix:
    """The matrix as float64 numpy, exactly; non-finite entries are refused."""
    array = matrix.detach().cpu().double().numpy()
    if not np.isfinite(array).all():
        raise InputError(f"{name}: has NaN or infinite entries, for which nothing can be certified")
    return array


def near_one(matrix: Tensor, name: str = "matrix") -> tuple[Tensor, int]:
    """The matrix with its largest entry in [1/2, 1), float64, and the exponent of two that it was divided by; exact.

    Raises:
        InputError: non-finite entries.
    """
    exact = to_float64(matrix, name)
    exponent = math.frexp(float(np.abs(exact).max(initial=0.0)))[1]  # of zero it is zero
    # Not by torch, which multiplies by a power of two that may overflow.
    return torch.from_numpy(np.ldexp(exact, -exponent)), exponent


def eigenvalues(symmetric: Matrix) -> Matrix:
    """Eigenvalues in ascending order, to working accuracy: a guess, which proves nothing.

    By torch, not numpy: two libraries' thread pools in one process wait for each other.
    """
    return torch.linalg.eigvalsh(torch.from_numpy(symmetric)).numpy()


def is_positive_semidefinite(matrix: Matrix, entry_error: float = 0.0) -> bool:
    """Whether every symmetric matrix within ``entry_error`` (Euclidean norm) of ``matrix`` is proved semidefinite.

    False means "not proved", not "indefinite". Only the lower triangle is read.
    """
    size = matrix.shape[0]
    diagonal = np.diagonal(matrix)
    if not np.isfinite(matrix).all() or not math.isfinite(entry_error) or (diagonal < 0.0).any():
        return False
    trace = float(diagonal.sum()) * (1.0 + rounding_constant(size))
    factor = rounding_constant(size + 1)
    shift = factor / (1.0 - factor) * trace + 4.0 * (size + 1) * (2.0 * size + trace) * _TINY
    shift = (shift + entry_error + UNIT * float(diagonal.max(initial=0.0))) * (1.0 + 8.0 * UNIT)
    return int(torch.linalg.cholesky_ex(torch.from_numpy(matrix - shift * np.eye(size)))[1]) == 0


def all_within_are_semidefinite(matrix: Matrix, entry_errors: Matrix) -> bool:
    """Whether every symmetric matrix whose entries are so near to those of ``matrix`` is proved semidefinite.

    False means "not proved". Rows and columns are multiplied by powers of two first, so that the diagonal is near one: the
    scaling is exact, and entries of very different sizes are proved as well as equal ones.

    Args:
        matrix: symmetric, shape (n, n).
        entry_errors: not negative, shape (n, n).
    """
    exponents = -(np.frexp(np.diagonal(matrix))[1] // 2)
    powers = exponents[:, None] + exponents
    size = len(matrix)
    spread = np.ldexp(entry_errors, powers).sum(axis=1).max(initial=0.0) * (1.0 + rounding_constant(size + 1))
    # Scaled entries that became subnormal lost less than the smallest normal number each.
    return is_positive_semidefinite(np.ldexp(matrix, powers), float(spread) + 4.0 * size * _TINY)


def spectral_norm_upper_bound(matrix: Tensor) -> float:
    """A number that is at least the largest singular value of the stored matrix, and within about 1e-12 of it.

    Args:
        matrix: shape (rows, columns), any float dtype.

    Raises:
        InputError: NaN or infinite entries.
    """
    array = to_float64(matrix)
    largest = float(np.abs(array).max(initial=0.0))
    if largest == 0.0:
        return 0.0
    # Scaling by a power of two is exact and keeps squares of tiny or huge entries away from under- and overflow.
    _, exponent = math.frexp(largest)
    array = np.ldexp(array, -exponent)
    # An entry that became subnormal lost at most the smallest subnormal; the slack in `error` covers it.
    if array.shape[0] > array.shape[1]:
        array = array.T
    gram = array @ array.T
    absolute = np.abs(array)
    terms = array.shape[1]
    error = (
        rounding_constant(terms + 2)
        * float((absolute @ absolute.T).sum(axis=1).max())
        * (1.0 + rounding_constant(terms + 2))
    )
    error += len(gram) * (terms + 1) * _TINY  # underflow, also where it is flushed to zero
    square = max(float(eigenvalues(gram)[-1]), float(np.diagonal(gram).max()))
    slack = 1e-14
    identity = np.eye(gram.shape[0])
    while slack < 1.0:
        candidate = square * (1.0 + slack)
        if is_positive_semidefinite(candidate * identity - gram, error + UNIT * candidate):
            root = math.nextafter(math.sqrt(candidate) * (1.0 + 4.0 * UNIT), math.inf)
            return math.nextafter(_scaled(root, exponent), math.inf)  # which rounds if it is subnormal
        slack *= 2.0
    frobenius = float(np.sqrt((absolute**2).sum()))  # always true, and reached only by pathological input
    return math.nextafter(_scaled(frobenius * (1.0 + rounding_constant(array.size + 4)), exponent), math.inf)


def _scaled(value: float, exponent: int) -> float:
    """The value times a power of two; infinity where that overflows."""
    try:
        return math.ldexp(value, exponent)
    except OverflowError:
        return math.inf


def symmetric_part_lower_bound(matrix: Tensor, roundings: int = 0) -> float:
    """A number that is at most the smallest eigenvalue of the symmetric part of a square matrix.

    Args:
        matrix: shape (n, n), any float dtype.
        roundings: by how many relative roundings (of float64) the stored entries may differ from those meant.
    """
    array = to_float64(matrix)
    symmetric = 0.5 * array + 0.5 * array.T
    scale = float(np.abs(symmetric).sum(axis=1).max(initial=0.0))
    # Cancellation in the symmetric part does not make the errors of its terms smaller.
    terms = float((0.5 * np.abs(array) + 0.5 * np.abs(array.T)).sum(axis=1).max(initial=0.0)) + 1.0
    error = (2.0 * scale + 1.01 * roundings * terms) * UNIT + _TINY
    smallest = float(eigenvalues(symmetric)[0])
    slack = 1e-15 * max(scale, _TINY)
    identity = np.eye(array.shape[0])
    while slack <= 4.0 * scale + _TINY:
        candidate = smallest - slack
        shifted = symmetric - candidate * identity
        if is_positive_semidefinite(shifted, error + UNIT * (scale + abs(candidate))):
            return candidate
        slack *= 2.0
    return -scale * (1.0 + rounding_constant(array.shape[0] + 4))  # Gershgorin

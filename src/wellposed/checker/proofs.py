"""What all proofs rest on: numbers that may be relied on, inequalities in floating point, and the refusal of everything else."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
UNIT = 2.0**-53
SAFETY = 4.0  # by how much margins must exceed what the rounding of weights can change


class Refuted(Exception):
    """A check failed; the message begins with the name of the check."""

    def __init__(self, check: str, reason: str) -> None:
        super().__init__(f"{check}: {reason}")


def real(value: Any) -> float:
    """A finite number of a claim."""
    if type(value) not in (int, float) or not math.isfinite(value):
        raise Refuted("number", f"{value!r} is no finite number")
    return float(value)


def whole(value: Any, least: int = 1) -> int:
    """A whole number of a claim, not too large for what is made of it."""
    if type(value) is not int or not least <= value <= 4096:
        raise Refuted("number", f"{value!r} is no whole number from {least} on")
    return value


def bounded(*vectors: Array) -> bool:
    """Whether the entries are positive, and neither so small nor so large that products with them lose what they prove."""
    return all(bool((vector > 1e-100).all() and (vector < 1e100).all()) for vector in vectors)


def rounding_constant(terms: int) -> float:
    """Higham's constant γ: relative rounding error of a sum of products of so many terms, in any order."""
    return terms * UNIT / (1.0 - terms * UNIT)


def sum_units(terms: int) -> float:
    """Units in the last place that a sum of so many products loses, in anything but the worst case."""
    return 2.0 * math.sqrt(terms) + 8.0


def semidefinite(matrix: Array, error: float) -> bool:
    """Whether all symmetric matrices within ``error`` of this one, in the Euclidean norm, are proved positive semidefinite.

    By a Cholesky factorisation, shifted by a bound of all rounding errors (Rump, BIT 46, 2006).
    """
    size, diagonal = len(matrix), np.diagonal(matrix)
    if not np.isfinite(matrix).all() or not math.isfinite(error) or (diagonal < 0.0).any():
        return False
    trace, factor = float(diagonal.sum()) * (1.0 + rounding_constant(size)), rounding_constant(size + 1)
    own = factor / (1.0 - factor) * trace
    shift = (own + error + 4.0 * (size + 1) * (2.0 * size + trace) * 2.3e-308 + UNIT * trace) * (1.0 + 1e-14)
    try:
        np.linalg.cholesky(matrix - shift * np.eye(size))
    except np.linalg.LinAlgError:
        return False
    return True


def near_one(matrix: Array) -> tuple[Array, int]:
    """The matrix over the power of two that brings its largest entry into [1/2, 1), and the exponent; exact."""
    exponent = math.frexp(float(np.abs(matrix).max(initial=0.0)))[1]
    return np.ldexp(matrix, -exponent), exponent


def norm_at_most(matrix: Array, value: float) -> bool:
    """Whether the largest singular value is proved to be at most ``value``."""
    scaled, exponent = near_one(matrix.astype(np.float64))
    if not scaled.any():
        return value >= 0.0
    scaled = scaled if scaled.shape[0] <= scaled.shape[1] else scaled.T
    bound = math.ldexp(value, -exponent)
    if not 0.0 < bound < 1e100:
        return bool(bound >= 1e100) and math.isfinite(value)
    sizes = float((np.abs(scaled) @ np.abs(scaled).T).sum(1).max())
    error = rounding_constant(scaled.shape[1] + 4) * sizes + 4.0 * UNIT * bound**2 + 1e-290
    return semidefinite(bound**2 * np.eye(len(scaled)) - scaled @ scaled.T, error)

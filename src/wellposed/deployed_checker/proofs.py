"""What all proofs rest on: inequalities in floating point, and the refusal of everything else."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
UNIT = 2.0**-53
FOLDED = 100  # more roundings than a factor that was folded into a matrix has


class Refuted(Exception):
    """A check failed; the message begins with the name of the check."""

    def __init__(self, check: str, reason: str) -> None:
        super().__init__(f"{check}: {reason}")


def require(good: Any, check: str, reason: str) -> None:
    """Refuse what is not good."""
    if not good:
        raise Refuted(check, reason)


def up(value: float) -> float:
    """The next float64 upwards, which covers one rounding."""
    return math.nextafter(value, math.inf)


def bounded(*vectors: Array) -> bool:
    """Whether the entries are positive, and neither so small nor so large that products with them lose what they prove."""
    return all(bool((vector > 1e-100).all() and (vector < 1e100).all()) for vector in vectors)


def rounding_constant(terms: int) -> float:
    """Higham's constant γ: relative rounding error of a sum of products of so many terms, in any order."""
    return terms * UNIT / (1.0 - terms * UNIT)


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


def norm_of(matrix: Array) -> float:
    """A proved bound of the largest singular value of a matrix whose entries may be off by some roundings each."""
    scaled, exponent = near_one(matrix)
    if not scaled.any():
        return 0.0
    scaled = scaled if scaled.shape[0] <= scaled.shape[1] else scaled.T
    gram, sizes = scaled @ scaled.T, np.abs(scaled) @ np.abs(scaled).T
    error = rounding_constant(scaled.shape[1] + 8 + 2 * FOLDED) * float(sizes.sum(1).max()) + 1e-290
    least, slack = math.sqrt(float(np.linalg.eigvalsh(gram)[-1])), 1e-13
    while slack < 1.0:
        bound = least * (1.0 + slack)
        if semidefinite(bound**2 * np.eye(len(gram)) - gram, error + 4.0 * UNIT * bound**2):
            return up(math.ldexp(bound, exponent))
        slack *= 4.0
    raise Refuted("norm", "a matrix's norm is lost to rounding")

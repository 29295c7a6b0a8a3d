"""What all proofs rest on: inequalities in floating point, and the refusal of everything else.

In exact mode the same proofs run on arrays of rational numbers, see `rationals`; what they count for rounding is then only more
than needed, and a matrix is proved semidefinite by `exact`.
"""

import math
from importlib import import_module
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


def exactly(array: Any) -> Any:
    """The module of exact proofs where an array is one of rational numbers; else None."""
    of_rationals = getattr(array, "dtype", None) == np.dtype(object)
    return import_module(".exact", __package__) if of_rationals else None


def up(value: Any) -> Any:
    """The next float64 upwards, which covers one rounding; a rational number as it is."""
    return value if exactly(value) else np.nextafter(value, math.inf)


def like(array: Array, value: Any) -> Any:
    """Numbers as some of the kind that an array holds."""
    exact = exactly(array)
    return exact.exact(value) if exact else value


def nearest(array: Any) -> Array:
    """Floats near the numbers of an array; they prove nothing."""
    return array.nearest() if exactly(array) else array


def rounding_constant(terms: int) -> float:
    """Higham's constant γ: relative rounding error of a sum of products of so many terms, in any order."""
    return terms * UNIT / (1.0 - terms * UNIT)


def semidefinite(matrix: Array, error: Any) -> bool:
    """Whether all symmetric matrices within ``error`` of this one, in the Euclidean norm, are proved positive semidefinite.

    By a Cholesky factorisation, shifted by a bound of all rounding errors (Rump, BIT 46, 2006).
    """
    size, diagonal = len(matrix), nearest(np.diagonal(matrix))
    if not np.isfinite(matrix).all() or not np.isfinite(error) or (diagonal < 0.0).any():
        return False
    trace, factor = float(diagonal.sum()) * (1.0 + rounding_constant(size)), rounding_constant(size + 1)
    own = factor / (1.0 - factor) * trace
    exact = exactly(matrix)
    if exact:
        return bool(exact.semidefinite(matrix, error, own))
    shift = (own + error + 4.0 * (size + 1) * (2.0 * size + trace) * 2.3e-308 + UNIT * trace) * (1.0 + 1e-14)
    return factor_of(matrix - shift * np.eye(size)) is not None


def factor_of(matrix: Array) -> Array | None:
    """The Cholesky factor of a matrix in floating point, or None without one."""
    try:
        return np.asarray(np.linalg.cholesky(matrix))
    except np.linalg.LinAlgError:
        return None


def near_one(matrix: Array) -> tuple[Array, int]:
    """The matrix over the power of two that brings its largest entry into [1/2, 1), or to 1, and the exponent; exact."""
    exponent = math.frexp(float(nearest(np.abs(matrix)).max(initial=0.0)))[1]
    return np.ldexp(matrix, -exponent), exponent


def norm_of(matrix: Array) -> Any:
    """A proved bound of the largest singular value of a matrix whose entries may be off by some roundings each."""
    scaled, exponent = near_one(matrix)
    if not (scaled != 0.0).any():
        return like(matrix, 0.0)
    scaled = scaled if scaled.shape[0] <= scaled.shape[1] else scaled.T
    gram, sizes = scaled @ scaled.T, np.abs(scaled) @ np.abs(scaled).T
    error = rounding_constant(scaled.shape[1] + 8 + 2 * FOLDED) * sizes.sum(1).max() + 1e-290
    least, slack = math.sqrt(float(np.linalg.eigvalsh(nearest(gram))[-1])), 1e-13
    while slack < 1.0:
        bound = like(matrix, least * (1.0 + slack))
        if semidefinite(bound**2 * np.eye(len(gram)) - gram, error + 4.0 * UNIT * bound**2):
            return up(np.ldexp(bound, exponent))
        slack *= 4.0
    raise Refuted("norm", "a matrix's norm is lost to rounding")

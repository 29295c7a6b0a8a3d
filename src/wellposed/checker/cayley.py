"""Orthogonal matrices by the transform of Cayley, and the comparison of matrices as they run with such ones."""

import math

import numpy as np

from .proofs import Array, Refuted


def cayley(free: Array) -> tuple[Array, Array]:
    """[(I + A)⁻¹(I − A); −2V(I + A)⁻¹] for tall [U; V] and A = U − Uᴴ + VᴴV, and how many roundings it may be off, relatively."""
    if free.shape[1] < free.shape[2]:
        found, lost = cayley(free.conj().swapaxes(1, 2))
        return found.conj().swapaxes(1, 2), lost
    size = free.shape[2]
    upper, lower, eye = free[:, :size], free[:, size:], np.eye(size)
    skew = upper - upper.conj().swapaxes(1, 2) + lower.conj().swapaxes(1, 2) @ lower
    inverse = np.linalg.inv(eye + skew)
    # What is inverted rounds relative to the square of its parts, which the inverse passes on twice, and then V.
    whole, outer, inner = (np.linalg.norm(part, 2, axis=(1, 2)) for part in (free, _or_zero(lower), inverse))
    roundings = 4.0 * math.sqrt(size + 8.0) * ((1.0 + outer) * (inner * (1.0 + whole)) ** 2 + outer * inner + 1.0)
    return np.concatenate([inverse @ (eye - skew), -2.0 * lower @ inverse], 1), roundings


def _or_zero(matrices: Array) -> Array:
    """Matrices, with a row of zeros for none."""
    return matrices if matrices.shape[1] else np.zeros((len(matrices), 1, matrices.shape[2]))


def near_by_rows(name: str, found: Array, expected: Array, off: Array, *, least: float = 0.0) -> bool:
    """Whether rows differ by no more than a share of their size, and what rounding may be off by is a small one.

    Rows smaller than ``least`` count as so large: small ones of an orthogonal map round as large ones do.
    """
    if not (off <= 1e-2).all():
        raise Refuted(
            "rounding", f"{name}: that of these weights is not small against the matrix that they make; use float64"
        )
    allowed = np.minimum(off, 1e-3) * np.maximum(np.linalg.norm(expected, axis=-1), least)
    return bool((np.linalg.norm(found - expected, axis=-1) <= allowed).all())

"""Orthogonal matrices by the transform of Cayley."""

from __future__ import annotations

import numpy as np

from .core import Array


def cayley(free: Array) -> tuple[Array, Array]:
    """[(I + A)⁻¹(I − A); −2V(I + A)⁻¹] for tall [U; V] and A = U − Uᴴ + VᴴV, and how many roundings it may be off, relatively."""
    if free.shape[1] < free.shape[2]:
        found, lost = cayley(free.conj().swapaxes(1, 2))
        return found.conj().swapaxes(1, 2), lost
    size = free.shape[2]
    upper, lower, eye = free[:, :size], free[:, size:], np.eye(size)
    skew = upper - upper.conj().swapaxes(1, 2) + lower.conj().swapaxes(1, 2) @ lower
    inverse = np.linalg.inv(eye + skew)
    condition = np.linalg.norm(inverse, axis=(1, 2)) * (np.linalg.norm(free, axis=(1, 2)) + 1.0) ** 2
    return np.concatenate([inverse @ (eye - skew), -2.0 * lower @ inverse], 1), 8.0 * (size + 8.0) * condition

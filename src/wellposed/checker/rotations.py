"""Orthogonal matrices by the exponential of a skew matrix, and by Björck's iteration."""

import math

import numpy as np

from .proofs import Array, Refuted


def formed(free: Array, base: Array | None) -> tuple[Array, Array]:
    """The exponential's with its base point, or Björck's without one; and how many roundings it may be off, relatively."""
    found, lost = _bjorck(free) if base is None else _exponential(free, base)
    return found, np.array(4.0 * math.sqrt(max(free.shape) + 8.0) * lost)


def _exponential(free: Array, base: Array) -> tuple[Array, float]:
    """base·exp(S), S skew, by its series for S/2ˢ and s squarings; the base point is shown to be orthogonal."""
    upper = np.triu(free, 1)
    skew = upper - upper.T
    if not np.linalg.norm(base.T @ base - np.eye(len(base))) <= 1e-3 or not np.abs(skew).sum(1).max() < 1e3:
        raise Refuted("matrix", "the base point of an exponential is not orthogonal, or its parameter too large")
    halvings = max(0, math.frexp(float(np.abs(skew).sum(1).max()))[1] + 4)
    term = found = np.eye(len(skew))
    for k in range(1, 16):
        term = term @ skew / (k * 2.0**halvings)
        found = found + term
    for _ in range(halvings):
        found = found @ found
    return base @ found, 16.0 * (1.0 + float(np.abs(skew).sum(1).max()))  # squares double errors


def _bjorck(free: Array) -> tuple[Array, float]:
    """Thirty steps towards the polar factor, which make up for small singular values, and for their rounding."""
    if free.shape[0] < free.shape[1]:
        found, lost = _bjorck(free.T)
        return found.T, lost
    found = free / max(math.sqrt(float(np.abs(free).sum(0).max()) * float(np.abs(free).sum(1).max())), 1e-300)
    least = float(np.linalg.norm(found, -2))
    for _ in range(30):
        found = 1.5 * found - 0.5 * found @ (found.T @ found)
    return found, 1.0 / max(least, 1e-300)

"""Vectors that prove something by being large, or small, enough entry by entry."""

from typing import Any

import numpy as np

from .proofs import Array, exactly


def below(array: Any) -> Array:
    """Numbers at most those of an array, near them; rational ones become short."""
    return array.below() if exactly(array) else array


def bounded(*vectors: Array) -> bool:
    """Whether the entries are positive, and neither so small nor so large that products with them lose what they prove."""
    return all(bool((vector > 1e-100).all() and (vector < 1e100).all()) for vector in vectors)


def length(array: Array) -> Any:
    """The Euclidean norm of all entries."""
    return np.sqrt((array * array).sum())

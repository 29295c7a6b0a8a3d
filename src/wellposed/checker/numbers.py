"""Numbers that other modules may rely on: sizes of a claim, vectors of the evidence, and matrices as they run."""

from __future__ import annotations

from typing import Any

import numpy as np

from .core import Array, Refuted


def whole(value: Any, least: int = 1) -> int:
    """A whole number of a claim, not too large for what is made of it."""
    if type(value) is not int or not least <= value <= 4096:
        raise Refuted("number", f"{value!r} is no whole number from {least} on")
    return value


def bounded(*vectors: Array) -> bool:
    """Whether the entries are positive, and neither so small nor so large that products with them lose what they prove."""
    return all(bool((vector > 1e-100).all() and (vector < 1e100).all()) for vector in vectors)


def near_by_rows(found: Array, expected: Array, off: Array) -> bool:
    """Whether rows differ by no more than a share of their size, never a large one."""
    allowed = np.minimum(off, 1e-3) * np.linalg.norm(expected, axis=-1)
    return bool((np.linalg.norm(found - expected, axis=-1) <= allowed).all())

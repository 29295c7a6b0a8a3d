"""Numbers that other modules may rely on: sizes of a claim, and vectors of the evidence."""

from __future__ import annotations

from typing import Any

from .core import Array, Refuted


def whole(value: Any, least: int = 1) -> int:
    """A whole number of a claim, not too large for what is made of it."""
    if type(value) is not int or not least <= value <= 4096:
        raise Refuted("number", f"{value!r} is no whole number from {least} on")
    return value


def bounded(*vectors: Array) -> bool:
    """Whether the entries are positive, and neither so small nor so large that products with them lose what they prove."""
    return all(bool((vector > 1e-100).all() and (vector < 1e100).all()) for vector in vectors)

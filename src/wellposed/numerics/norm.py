"""The norms that claims are made in, by one spelling."""

from __future__ import annotations

import math
from typing import Literal

from wellposed.errors import InputError, shown

Norm = Literal["2", "inf", "1"]
NORMS: tuple[Norm, ...] = ("2", "inf", "1")
_SPELLINGS: dict[str, Norm] = {"2": "2", "l2": "2", "inf": "inf", "linf": "inf", "1": "1", "l1": "1"}


def norm_named(norm: object, allowed: tuple[Norm, ...] = NORMS) -> Norm:
    """The one spelling of a norm: ``"2"``, ``"inf"`` or ``"1"``.

    Args:
        norm: 2, 1, infinity, or one of the names 2, l2, inf, linf, 1, l1.
        allowed: which norms are known where this is asked.

    Raises:
        InputError: another norm.
    """
    found: Norm | None = None
    if isinstance(norm, str):
        found = _SPELLINGS.get(norm.lower())
    elif isinstance(norm, int | float) and not isinstance(norm, bool):
        numbers: dict[float, Norm] = {2.0: "2", 1.0: "1", math.inf: "inf"}
        found = numbers.get(float(norm))
    if found is None or found not in allowed:
        raise InputError(f"norm={shown(norm)}: expected one of {', '.join(map(repr, allowed))}")
    return found

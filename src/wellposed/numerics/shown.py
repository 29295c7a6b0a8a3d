"""Bounds in few digits, 15 at most, that are still bounds: upper ones are rounded up, lower ones down."""

from __future__ import annotations

import decimal


def at_most(value: float, digits: int = 4) -> str:
    """An upper bound with so many significant digits; as a float the text is no smaller than the bound."""
    return _shown(value, digits, decimal.ROUND_CEILING)


def at_least(value: float, digits: int = 4) -> str:
    """A lower bound with so many significant digits; as a float the text is no larger than the bound."""
    return _shown(value, digits, decimal.ROUND_FLOOR)


def _shown(value: float, digits: int, rounding: str) -> str:
    context = decimal.Context(prec=digits, rounding=rounding)
    return f"{float(context.create_decimal(repr(float(value)))):.{digits}g}"

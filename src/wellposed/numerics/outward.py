"""Outward rounding: named margins that cover the rounding of float64 arithmetic, each derived once.

One operation gives the exact result times 1 + δ with |δ| ≤ u = 2⁻⁵³, barring underflow; k such factors together lie between
1 − γ_k and 1 + γ_k, γ_k = ku/(1 − ku) (Higham 2002, "Accuracy and Stability of Numerical Algorithms", Section 3.1). A number that
came out of k sums, products, quotients and roots of nonnegative numbers is the exact one times such a factor: the functions here
bound the exact one, their own rounding included.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor

UNIT = 2.0**-53
TINY = 1e-300  # more than a few sums and products of float64 lose by underflow
FIRST_ORDER = 1.01  # k·u times this is above γ_k, and its own rounding, wherever k·u is below 0.0098
REPRODUCIBLE = 1.0 + 1e-9  # room for the rounding of another machine that proves the same inequality again

Number = TypeVar("Number", float, Tensor)


def rounding_constant(terms: int, unit: float = UNIT) -> float:
    """Higham's constant γ: relative rounding error of a sum of ``terms`` products in any order; by default in float64."""
    return terms * unit / (1.0 - terms * unit)


def next_up(value: float) -> float:
    """The next float64 upwards: covers one rounded operation, whatever its sign, underflow included."""
    return math.nextafter(value, math.inf)


def below(value: Tensor) -> Tensor:
    """The next float64 downwards of every entry: covers one rounded operation, whatever its sign, underflow included."""
    return torch.nextafter(value, torch.full_like(value, -math.inf))


def above(value: Tensor) -> Tensor:
    """The next float64 upwards of every entry: covers one rounded operation, whatever its sign, underflow included."""
    return torch.nextafter(value, torch.full_like(value, math.inf))


def enlarged(value: Number, operations: int, unit: float = UNIT) -> Number:
    """At least the exact number, where ``operations`` rounded operations without subtraction gave ``value`` ≥ 0.

    Division by (1 − u)^k needs a factor of 1 + γ_k; two more operations cover this product.
    """
    return value * (1.0 + rounding_constant(2 * operations + 4, unit))


def reduced(value: Number, operations: int) -> Number:
    """At most the exact number, where ``operations`` rounded operations without subtraction gave ``value`` ≥ 0."""
    return value * (1.0 - rounding_constant(2 * operations + 4))


def error_of(size: Number, operations: int) -> Number:
    """At least the error of a number that so many rounded operations gave, subtractions among them.

    Each term goes through at most ``operations`` of them and errs by γ times its absolute value; two more cover this product.

    Args:
        size: at least the sum of the absolute values of all terms, or what that was computed as.
        operations: that a term goes through.
    """
    return size * rounding_constant(2 * operations + 4)


def enlarged_norm(value: Number, entries: int) -> Number:
    """At least the Euclidean norm of a vector of so many entries, whose computed norm is ``value``.

    Squares, their sum in any order, and the root: at most entries + 2 operations, of which the root halves all but the last.
    """
    return enlarged(value, entries + 2)


def enlarged_sum(value: Number, terms: int) -> Number:
    """At least the sum of so many nonnegative products, whose computed sum in any order is ``value``."""
    return enlarged(value, terms + 1)


def enlarged_entries(value: float, ratio: float, operations: int) -> float:
    """At least the spectral norm of a matrix whose entries came out of ``operations`` rounded operations without subtraction.

    An error E with |E| ≤ γ|A| has ‖E‖₂ ≤ γ‖|A|‖₂.

    Args:
        value: the spectral norm of the computed matrix A, or a bound of it.
        ratio: at least ‖|A|‖₂/‖A‖₂; for any matrix the root of its smaller side is.
        operations: how many there were for each entry.
    """
    return enlarged(value, 1) * (1.0 + ratio * rounding_constant(2 * operations + 4))


def unit_of(dtype: torch.dtype) -> float:
    """The unit roundoff of a precision: half the distance from one to the next larger number."""
    return 0.5 * torch.finfo(dtype).eps

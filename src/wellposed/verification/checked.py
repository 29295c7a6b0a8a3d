"""What verifiers refuse to be asked."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wellposed.errors import InputError, check, choices

NORMS = ("2", "inf")


def checked_question(
    x: Tensor,
    label: int,
    radius: float,
    norm: int | str,
    allowance: float,
    inputs: int,
    classes: int,
    valid: tuple[float, float] | None,
) -> Tensor:
    """The input as float64 numbers in a row, once everything about the question makes sense.

    Raises:
        InputError: something does not.
    """
    choices("norm", str(norm), NORMS)
    check(0.0 < radius < math.inf, "radius", radius, "must be positive and finite")
    check(allowance >= 0.0, "allowance", allowance, "must not be negative or NaN")
    check(0 <= label < classes, "label", label, f"must lie in 0…{classes - 1}")
    if x.numel() != inputs or not bool(torch.isfinite(x).all()):
        raise InputError(f"x: shape {tuple(x.shape)}; needs {inputs} finite numbers")
    point = x.detach().double().cpu().reshape(-1)
    low, high = float(point.min()), float(point.max())
    if valid is not None and not valid[0] <= low <= high <= valid[1]:
        raise InputError(f"x: pixels span [{low:.3g}, {high:.3g}]; they must lie in {valid}")
    return point

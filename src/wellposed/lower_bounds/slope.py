"""Slopes between two inputs that surely are attained, every error subtracted."""

from __future__ import annotations

import torch
from torch import Tensor

from wellposed.numerics.outward import REPRODUCIBLE, enlarged, reduced


def sure_slope(moved: Tensor, error: Tensor, distance: Tensor, *, outputs: int, inputs: int) -> Tensor:
    """How far outputs surely are apart, as a multiple of their inputs' distance, with room for evaluating them again elsewhere.

    Args:
        moved: computed norms of computed differences of the outputs, float64, shape (*).
        error: bounds, in that norm, on how far the outputs are off together, shape (*).
        distance: computed norms of computed differences of the inputs, shape (*).
        outputs: entries of one output.
        inputs: entries of one input.

    Returns:
        Shape (*); zero where nothing is sure.
    """
    # A norm is a difference, at most a square, a root, and a sum of all entries; an error is a sum and a product with a root.
    sure = reduced(moved, outputs + 3) - enlarged(error, 4)
    slope = reduced(sure / enlarged(distance, inputs + 3), 2) / REPRODUCIBLE
    return torch.where((sure > 0.0) & (distance > 0.0), slope, 0.0)

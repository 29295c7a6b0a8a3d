"""The geometries in which guarantees are stated, one value per sample."""

from __future__ import annotations

import torch
from torch import Tensor


def euclidean(value: Tensor) -> Tensor:
    """Euclidean norm of each sample: shape (batch, ...) to (batch,), float64.

    Squares of float32 numbers over- and underflow in float32 long before the numbers do; in float64 they cannot.
    """
    if value.ndim != 2:
        value = value.flatten(1) if value.ndim > 1 else value[:, None]
    return torch.linalg.vector_norm(value, dim=1, dtype=torch.float64)

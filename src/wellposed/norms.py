"""The geometries in which guarantees are stated, one value per sample."""

from __future__ import annotations

import torch
from torch import Tensor


def euclidean(value: Tensor) -> Tensor:
    """Euclidean norm of each sample: shape (batch, ...) to (batch,)."""
    if value.ndim == 2:
        return torch.linalg.vector_norm(value, dim=1)
    return torch.linalg.vector_norm(value.flatten(1) if value.ndim > 1 else value[:, None], dim=1)

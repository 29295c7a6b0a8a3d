"""The geometries in which guarantees are stated, one value per sample."""

from __future__ import annotations

import torch
from torch import Tensor

_WIDE = 512


def euclidean(value: Tensor) -> Tensor:
    """Euclidean norm of each sample: shape (batch, ...) to (batch,), float64, with a relative error of at most n·eps.

    Squares of float32 numbers over- and underflow in float32 long before the numbers do; in float64 they cannot.
    """
    if value.ndim != 2:
        value = value.flatten(1) if value.ndim > 1 else value[:, None]
    if value.shape[1] >= _WIDE and _is_plain_float32(value):
        # Long rows are several times as fast in float32, whose result shows whether squares were in range.
        norm = torch.linalg.vector_norm(value, dim=1)
        if bool(((norm > 1e-15) & (norm < 1e15)).all()):
            return norm.double()
    return torch.linalg.vector_norm(value, dim=1, dtype=torch.float64)


def _is_plain_float32(value: Tensor) -> bool:
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(value)
    return value.dtype == torch.float32 and value.device.type == "cpu" and not wrapped

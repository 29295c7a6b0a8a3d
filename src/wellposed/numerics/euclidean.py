"""The geometries in which guarantees are stated, one value per sample, and what numbers lose at the lower end of a dtype."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_WIDE = 512
# Below the first number squares of float64 numbers may underflow; times the second, no row of such a norm does, and over it
# none overflows.
_SMALL, _LIFT = 2.0**-400, 2.0**600


def euclidean(value: Tensor) -> Tensor:
    """Euclidean norm of each sample: shape (batch, ...) to (batch,), float64, with a relative error of at most n·eps.

    Squares of float32 numbers over- and underflow in float32 long before the numbers do; in float64 they cannot. Rows of
    float64 whose squares do are multiplied by a power of two first. What a flush of subnormal numbers to zero loses is
    below `underflow`.
    """
    if value.ndim == 2 and value.dtype == torch.float32 and value.shape[1] < _WIDE and value.stride(1) == 1:
        return torch.linalg.vector_norm(value, dim=1, dtype=torch.float64)  # the common case: nothing to look at
    value = _rows(value)
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(value)
    plain = value.device.type == "cpu" and not wrapped  # where looking at numbers costs little
    if plain and value.shape[1] >= _WIDE and value.dtype == torch.float32:
        # Long rows are several times as fast in float32, whose result shows whether squares were in range.
        norm = _in_own_precision(value)
        seen = norm.detach().numpy()  # where a few small operations cost a fraction of torch's
        if seen.size and seen.min() > 1e-15 and seen.max() < 1e15:
            return norm.double()
    norm = _norm(value)
    if value.dtype != torch.float64 or norm.numel() == 0:
        return norm
    if plain:
        seen = norm.detach().numpy()
        if seen.min() >= _SMALL and seen.max() < math.inf:
            return norm
    lift = torch.ones_like(norm).masked_fill(norm < _SMALL, _LIFT).masked_fill(norm == math.inf, 1.0 / _LIFT)
    return torch.where(lift == 1.0, norm, _norm(value * lift[:, None]) / lift)


def frobenius(value: Tensor) -> float:
    """Euclidean norm of all entries of a tensor, as exact as `euclidean`."""
    norm = float(torch.linalg.vector_norm(value.detach(), dtype=torch.float64))
    return norm if _SMALL <= norm < math.inf else float(euclidean(value.detach().reshape(1, -1)))


def working_norm(value: Tensor) -> Tensor:
    """Euclidean norm of each sample in the working precision, float32 at least, to be trusted within `trusted_range`."""
    if value.dtype in (torch.float16, torch.bfloat16):
        return torch.linalg.vector_norm(_rows(value), dim=1, dtype=torch.float32)
    if value.ndim == 2 and value.stride(1) == 1:  # the common case: nothing to rearrange
        return torch.linalg.vector_norm(value, dim=1)
    return _in_own_precision(_rows(value))


def trusted_range(dtype: torch.dtype) -> tuple[float, float]:
    """Between which values a `working_norm` has lost nothing that matters to underflow or overflow of squares."""
    limits = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32)
    return 1e5 * limits.tiny**0.5, 1e-2 * limits.max**0.5


def rowwise_where(condition: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Whole samples of one tensor where a condition of shape (batch,) holds, of another elsewhere."""
    return torch.where(condition.reshape(-1, *([1] * (yes.ndim - 1))), yes, no)


def underflow(dtype: torch.dtype, entries: int, terms: int) -> float:
    """Bound on the Euclidean norm of what underflow takes from ``entries`` sums of ``terms`` products, factors included.

    It holds for factors of at most one, whether subnormal numbers are kept or flushed to zero.
    """
    return 4.0 * (terms + 16) * float(entries) ** 0.5 * torch.finfo(dtype).tiny


def product_underflow(dtype: torch.dtype, outputs: int, terms: int, inputs: int, weight: float, norm: Tensor) -> Tensor:
    """Bound on the Euclidean norm of what underflow takes from a linear map of each sample, subnormal factors included.

    Args:
        dtype: of the stored factors.
        outputs: entries of the value.
        terms: products in each of them.
        inputs: entries of the argument.
        weight: an upper bound of the map's norm.
        norm: Euclidean norms of the arguments, shape (batch,).
    """
    tiny = 4.0 * torch.finfo(dtype).tiny
    known = tiny * inputs**0.5 * weight + underflow(dtype, outputs, terms)
    return torch.add(norm * (tiny * float(outputs * terms) ** 0.5), known)


def _rows(value: Tensor) -> Tensor:
    if value.ndim == 2:
        return value
    return value.flatten(1) if value.ndim > 1 else value[:, None]


def _norm(rows: Tensor) -> Tensor:
    if _are_columns(rows):
        return rows.double().square().sum(1).sqrt()
    return torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)


def _in_own_precision(rows: Tensor) -> Tensor:
    return rows.square().sum(1).sqrt() if _are_columns(rows) else torch.linalg.vector_norm(rows, dim=1)


def _are_columns(rows: Tensor) -> bool:
    """Whether samples are columns of the memory, where torch's norms take several times as long as sums of squares."""
    return rows.shape[0] > 1 and rows.stride(0) == 1 and not rows.requires_grad

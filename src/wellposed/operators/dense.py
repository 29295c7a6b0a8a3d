"""A state map given by a full matrix."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from wellposed.errors import check
from wellposed.linear_algebra import inverse
from wellposed.operators.base import Operator

_KEPT_FACTORISATIONS = 4


class FactorisationCache:
    """Cayley transforms of recent matrices, looked up by *value*.

    Comparing the numbers themselves costs n² and can never be stale, whatever way a weight was changed; comparing
    identity or version counters misses writes through ``.data``. Entries are replaced, never mutated, so concurrent
    solves cannot see a half-written one.
    """

    def __init__(self) -> None:
        self._entries: tuple[tuple[float, Tensor, Tensor], ...] = ()
        self.factorisations = 0

    def cayley(self, matrix: Tensor, step: float) -> Tensor:
        """``2·(I + step·(I − matrix))⁻¹ − I`` of shape (n, n)."""
        for kept_step, kept_matrix, kept in self._entries:
            if (
                kept_step == step
                and kept_matrix.dtype == matrix.dtype
                and kept_matrix.device == matrix.device
                and torch.equal(kept_matrix, matrix)
            ):
                return kept
        shifted = matrix * -step
        shifted.diagonal().add_(1.0 + step)
        transform = inverse(shifted).mul_(2.0)
        transform.diagonal().sub_(1.0)
        self.factorisations += 1
        self._entries = ((step, matrix, transform), *self._entries[: _KEPT_FACTORISATIONS - 1])
        return transform


class Dense(Operator):
    """``W`` as an (n, n) matrix acting on states of shape (batch, n).

    Args:
        matrix: the matrix, shape (n, n).
        cache: factorisations to share with other operators of the same layer.
        transposed: act as the transpose of ``matrix``.
    """

    def __init__(self, matrix: Tensor, cache: FactorisationCache | None = None, *, transposed: bool = False) -> None:
        square = matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1]
        check(square, "matrix", tuple(matrix.shape), "must be a square matrix")
        self._matrix = matrix
        self._cache = FactorisationCache() if cache is None else cache
        self._transposed = transposed
        # States are rows, so W acts from the right as its transpose; the view is taken once, not per iteration.
        self._right = matrix if transposed else matrix.t()

    @property
    def tensors(self) -> tuple[Tensor, ...]:  # noqa: D102
        return (self._matrix,)

    def rebuild(self, tensors: tuple[Tensor, ...]) -> Self:  # noqa: D102
        return type(self)(tensors[0], self._cache, transposed=self._transposed)

    def affine(self, state: Tensor, offset: Tensor) -> Tensor:  # noqa: D102
        return torch.addmm(offset, state, self._right)

    def apply(self, state: Tensor) -> Tensor:  # noqa: D102
        return torch.mm(state, self._right)

    def transpose(self) -> Self:  # noqa: D102
        return type(self)(self._matrix, self._cache, transposed=not self._transposed)

    def cayley(self, step: float) -> Dense:  # noqa: D102
        matrix = self._matrix
        if matrix.requires_grad and torch.is_grad_enabled():  # unrolled differentiation: keep the graph, cache nothing
            identity = torch.eye(matrix.shape[0], dtype=matrix.dtype, device=matrix.device)
            transform = 2.0 * inverse(identity * (1.0 + step) - step * matrix) - identity
        else:
            transform = self._cache.cayley(matrix, step)
        return Dense(transform, transposed=self._transposed)

    def tensor_gradients(self, cotangent: Tensor, state: Tensor) -> tuple[Tensor, ...]:  # noqa: D102
        left, right = (state, cotangent) if self._transposed else (cotangent, state)
        return (torch.mm(left.t(), right),)

    def tensor_tangent(self, tangents: tuple[Tensor, ...], state: Tensor) -> Tensor:  # noqa: D102
        return torch.mm(state, tangents[0] if self._transposed else tangents[0].t())

    def to(self, dtype: torch.dtype) -> Self:  # noqa: D102
        if dtype == self._matrix.dtype:
            return self
        return type(self)(self._matrix.to(dtype), self._cache, transposed=self._transposed)

    def norm_upper_bound(self) -> float:  # noqa: D102
        size = self._matrix.shape[0]
        eps = torch.finfo(self._matrix.dtype).eps
        return float(torch.linalg.matrix_norm(self._matrix)) * (1.0 + (size * size + 2) * eps)

    def displacement_norm_estimate(self) -> float:  # noqa: D102
        matrix = self._matrix
        size = matrix.shape[0]
        # ‖I − W‖_F² = n − 2·tr W + ‖W‖_F², without forming I − W.
        square = size - 2.0 * matrix.trace() + torch.linalg.matrix_norm(matrix) ** 2
        return (max(float(square), 0.0) / size) ** 0.5

    def rounding(self, state_norm: Tensor, offset_norm: Tensor) -> Tensor:  # noqa: D102
        unit = 0.5 * torch.finfo(self._matrix.dtype).eps
        terms = self._matrix.shape[0] + 2
        gamma = terms * unit / (1.0 - terms * unit)
        return gamma * (self.norm_upper_bound() * state_norm + offset_norm)

    def dense(self) -> Tensor:  # noqa: D102
        return self._right.t()

"""A state map given by a full matrix."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Self

import torch
from torch import Tensor

from wellposed.errors import InputError
from wellposed.numerics.linear_algebra import accretive_inverse
from wellposed.operators.base import Operator, T
from wellposed.operators.cache import Entry, FactorisationCache, version_of


class Dense(Operator):
    """``W`` as an (n, n) matrix acting on states of shape (batch, n).

    Args:
        matrix: the matrix, shape (n, n).
        cache: factorisations to share with other operators of the same layer.
        metric: see `Operator.metric`; for ``matrix`` as it is, not transposed.
        transposed: act as the transpose of ``matrix``.
    """

    def __init__(
        self,
        matrix: Tensor,
        cache: FactorisationCache | None = None,
        metric: Tensor | None = None,
        *,
        transposed: bool = False,
    ) -> None:
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise InputError(f"matrix: has shape {tuple(matrix.shape)}; must be a square matrix")
        self._matrix = matrix
        self._cache = FactorisationCache() if cache is None else cache
        self._metric = metric
        self._transposed = transposed
        self._found: tuple[int | None, Entry] | None = None
        # States are rows, so W acts from the right as its transpose; the view is taken once, not per iteration.
        self._right = matrix if transposed else matrix.t()

    @property
    def tensors(self) -> tuple[Tensor, ...]:  # noqa: D102
        return (self._matrix,) if self._metric is None else (self._matrix, self._metric)

    @property
    def metric(self) -> Tensor | None:  # noqa: D102
        return self._metric if self._metric is None or not self._transposed else 1.0 / self._metric

    def remembered(self, key: Hashable, compute: Callable[[], T], *, oriented: bool = False) -> T:  # noqa: D102
        metric = None if self._metric is None else tuple(self._metric.tolist())
        return self._entry().remembered((key, oriented and self._transposed, metric), compute)

    def rebuild(self, tensors: tuple[Tensor, ...]) -> Self:  # noqa: D102
        return type(self)(tensors[0], self._cache, *tensors[1:], transposed=self._transposed)

    def affine(self, state: Tensor, offset: Tensor) -> Tensor:  # noqa: D102
        return torch.addmm(offset, state, self._right)

    def apply(self, state: Tensor) -> Tensor:  # noqa: D102
        return torch.mm(state, self._right)

    def transpose(self) -> Self:  # noqa: D102
        flipped = type(self)(self._matrix, self._cache, self._metric, transposed=not self._transposed)
        flipped._found = self._found
        return flipped

    def upright(self) -> Self:  # noqa: D102
        return self.transpose() if self._transposed else self

    def cayley(self, step: float) -> Dense:  # noqa: D102
        matrix = self._matrix
        if matrix.requires_grad and torch.is_grad_enabled():  # unrolled differentiation: keep the graph, cache nothing
            identity = torch.eye(matrix.shape[0], dtype=matrix.dtype, device=matrix.device)
            transform = 2.0 * accretive_inverse(identity * (1.0 + step) - step * matrix) - identity
        else:
            transform = self._cache.transform(self._entry(), step, lambda stored: _cayley(stored, step))
        return Dense(transform, transposed=self._transposed)

    def tensor_gradients(self, cotangent: Tensor, state: Tensor) -> tuple[Tensor, ...]:  # noqa: D102
        left, right = (state, cotangent) if self._transposed else (cotangent, state)
        gradient = torch.mm(left.t(), right)
        return (gradient,) if self._metric is None else (gradient, torch.zeros_like(self._metric))

    def tensor_tangent(self, tangents: tuple[Tensor, ...], state: Tensor) -> Tensor:  # noqa: D102
        return torch.mm(state, tangents[0] if self._transposed else tangents[0].t())

    def to(self, dtype: torch.dtype) -> Self:  # noqa: D102
        if dtype == self._matrix.dtype:
            return self
        return type(self)(self._matrix.to(dtype), self._cache, self._metric, transposed=self._transposed)

    def _entry(self) -> Entry:
        version = version_of(self._matrix)
        if self._found is None or version is None or self._found[0] != version:
            self._found = (version, self._cache.entry(self._matrix.detach()))
        return self._found[1]

    def _square_norm(self) -> float:
        entry = self._entry()
        return entry.remembered(
            "square norm", lambda: float(torch.dot(entry.tensor.reshape(-1), entry.tensor.reshape(-1)))
        )

    def norm_upper_bound(self) -> float:  # noqa: D102
        terms, limits = self._matrix.numel() + 2, torch.finfo(self._matrix.dtype)
        # Squares that underflow lose less than the smallest normal number each.
        return (self._square_norm() * (1.0 + terms * limits.eps) + terms * limits.tiny) ** 0.5

    def trace(self) -> float:  # noqa: D102
        entry = self._entry()
        return entry.remembered("trace", lambda: float(entry.tensor.trace()))

    def norm_estimate(self) -> float:  # noqa: D102
        return float(torch.linalg.vector_norm(self._matrix)) / self._matrix.shape[0] ** 0.5

    def displacement_norm_estimate(self) -> float:  # noqa: D102
        size = self._matrix.shape[0]
        # ‖I − W‖_F² = n − 2·tr W + ‖W‖_F², without forming I − W.
        square = size - 2.0 * self.trace() + self._square_norm()
        return (max(square, 0.0) / size) ** 0.5

    def rounding(self, state_norm: Tensor, offset_norm: Tensor) -> Tensor:  # noqa: D102
        unit = 0.5 * torch.finfo(self._matrix.dtype).eps
        terms = self._matrix.shape[0] + 2
        gamma = terms * unit / (1.0 - terms * unit)
        return gamma * (self.norm_upper_bound() * state_norm + offset_norm)

    def dense(self) -> Tensor:  # noqa: D102
        return self._right.t()


def _cayley(matrix: Tensor, step: float) -> Tensor:
    """``2·(I + step·(I − matrix))⁻¹ − I``, shape (n, n)."""
    shifted = matrix * (-0.5 * step)
    shifted.diagonal().add_(0.5 * (1.0 + step))
    transform = accretive_inverse(shifted)
    transform.diagonal().sub_(1.0)
    return transform

"""A state map given by a full matrix."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.errors import InputError
from wellposed.numerics.linear_algebra import accretive_inverse
from wellposed.numerics.outward import rounding_constant, unit_of
from wellposed.numerics.product import product
from wellposed.operators.base import Coefficients
from wellposed.operators.cache import FactorisationCache
from wellposed.operators.structured import StructuredOperator


class Dense(StructuredOperator):
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
        super().__init__(cache, transposed=transposed)
        self._matrix, self._metric = matrix, metric
        # States are rows, so W acts from the right as its transpose; the view is taken once, not per iteration.
        self._right = matrix if transposed else matrix.t()

    @property
    @override
    def tensors(self) -> tuple[Tensor, ...]:
        return (self._matrix,) if self._metric is None else (self._matrix, self._metric)

    @property
    @override
    def state_shape(self) -> tuple[int, ...]:
        return (self._matrix.shape[0],)

    @property
    @override
    def metric(self) -> Tensor | None:
        return self._metric if self._metric is None or not self._transposed else 1.0 / self._metric

    @override
    def matrix(self) -> Tensor:
        return self._matrix.t() if self._transposed else self._matrix

    @override
    def coefficients(self) -> Coefficients:
        matrix = self.matrix()
        return Coefficients(matrix, torch.eye(len(matrix), dtype=torch.bool, device=matrix.device))

    @override
    def _like(self, tensors: tuple[Tensor, ...], *, transposed: bool) -> Self:
        return type(self)(tensors[0], self._cache, *tensors[1:], transposed=transposed)

    @override
    def _factorised(self, step: float, tensors: tuple[Tensor, ...]) -> Dense:
        matrix = tensors[0]
        if matrix.requires_grad:
            identity = torch.eye(matrix.shape[0], dtype=matrix.dtype, device=matrix.device)
            return Dense(2.0 * accretive_inverse(identity * (1.0 + step) - step * matrix) - identity)
        shifted = matrix * (-0.5 * step)
        shifted.diagonal().add_(0.5 * (1.0 + step))
        transform = accretive_inverse(shifted)
        transform.diagonal().sub_(1.0)
        return Dense(transform)

    @override
    def affine(self, state: Tensor, offset: Tensor) -> Tensor:
        return torch.addmm(offset, state, self._right)

    @override
    def apply(self, state: Tensor) -> Tensor:
        return torch.mm(state, self._right)

    @override
    def tensor_gradients(self, cotangent: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        left, right = (state, cotangent) if self._transposed else (cotangent, state)
        gradient = product(left.t(), right)
        return (gradient,) if self._metric is None else (gradient, torch.zeros_like(self._metric))

    @override
    def tensor_tangent(self, tangents: tuple[Tensor, ...], state: Tensor) -> Tensor:
        return torch.mm(state, tangents[0] if self._transposed else tangents[0].t())

    @override
    def to(self, dtype: torch.dtype) -> Self:
        """The metric stays as it is."""
        return self if dtype == self.dtype else self.rebuild((self._matrix.to(dtype), *self.tensors[1:]))

    def _square_norm(self) -> float:
        entry = self._entry()
        return entry.remembered(
            "square norm", lambda: float(torch.dot(entry.tensor.reshape(-1), entry.tensor.reshape(-1)))
        )

    @override
    def norm_upper_bound(self) -> float:
        terms, limits = self._matrix.numel() + 2, torch.finfo(self._matrix.dtype)
        # Squares that underflow lose less than the smallest normal number each.
        return (self._square_norm() * (1.0 + terms * limits.eps) + terms * limits.tiny) ** 0.5

    @override
    def trace(self) -> float:
        entry = self._entry()
        return entry.remembered("trace", lambda: float(entry.tensor.trace()))

    @override
    def norm_estimate(self) -> float:
        return float(torch.linalg.vector_norm(self._matrix)) / self._matrix.shape[0] ** 0.5

    @override
    def displacement_norm_estimate(self) -> float:
        entry, size = self._entry(), self._matrix.shape[0]

        def root_mean_square() -> float:  # ‖I − W‖_F² = n − 2·tr W + ‖W‖_F², without forming I − W
            flat = entry.tensor.reshape(-1)
            square = size - 2.0 * float(entry.tensor.trace()) + float(torch.dot(flat, flat))
            return (max(square, 0.0) / size) ** 0.5

        return entry.remembered("displacement", root_mean_square)

    @override
    def rounding(self, state_norm: Tensor, offset_norm: Tensor) -> Tensor:
        gamma = rounding_constant(self._matrix.shape[0] + 2, unit_of(self.dtype))
        return gamma * (self.norm_upper_bound() * state_norm + offset_norm)

    @override
    def dense(self) -> Tensor:
        return self.matrix()

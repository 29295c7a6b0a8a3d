"""What solvers see: a map on one tensor whose first dimension is the batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.activations import Activation
from wellposed.numerics.brief import Brief
from wellposed.numerics.linear_algebra import directional_derivative
from wellposed.operators import Operator


class Problem(ABC):
    """Find z with f(z) = z, for a batch of independent samples."""

    @abstractmethod
    def evaluate(self, state: Tensor) -> Tensor:
        """f(state), shape (batch, *state)."""

    @abstractmethod
    def select(self, rows: Tensor) -> Problem | None:
        """The problem of the samples ``rows`` only, or None where samples cannot be told apart."""

    @abstractmethod
    def tangent(self, state: Tensor, direction: Tensor) -> Tensor:
        """Directional derivative of f at ``state`` along ``direction``, both (batch, *state)."""

    @abstractmethod
    def jacobian(self, state: Tensor) -> Tensor:
        """Jacobian of each sample's map on the flattened state, shape (batch, n, n)."""

    def affine(self) -> AffineProblem | None:
        """The problem in the form z = σ(Wz + q), which operator splittings and exact error bounds need; None for others."""
        return None

    @property
    def selectable(self) -> bool:
        """Whether finished samples can be taken out of the batch."""
        return True


@dataclass(frozen=True, eq=False)
class MapProblem(Problem):
    """Any map.

    Attributes:
        function: the map, (batch, *state) to (batch, *state).
        select_rows: builds the map of some samples only, where that is possible.
        linear: the map is affine, so that its derivative needs no differentiation.
    """

    function: Callable[[Tensor], Tensor]
    select_rows: Callable[[Tensor], Callable[[Tensor], Tensor]] | None = None
    linear: bool = False

    @override
    def evaluate(self, state: Tensor) -> Tensor:
        return self.function(state)

    @override
    def select(self, rows: Tensor) -> Problem | None:
        if self.select_rows is None:
            return None
        chosen = self.select_rows

        def later(more: Tensor) -> Callable[[Tensor], Tensor]:
            return chosen(rows[more])

        return MapProblem(chosen(rows), later, self.linear)

    @override
    def tangent(self, state: Tensor, direction: Tensor) -> Tensor:
        if self.linear:
            return self.function(direction) - self.function(torch.zeros_like(direction))
        return directional_derivative(self.function, (state,), (direction,))

    @override
    def jacobian(self, state: Tensor) -> Tensor:
        size = state[0].numel()
        basis = torch.eye(size, dtype=state.dtype, device=state.device).reshape(size, 1, *state.shape[1:])
        basis = basis.expand(size, *state.shape)
        if self.linear:
            columns = torch.func.vmap(lambda e: self.tangent(state, e))(basis)
            return columns.reshape(size, state.shape[0], size).permute(1, 2, 0)
        pull_back = torch.func.vjp(self.function, state)[1]
        rows = torch.func.vmap(lambda e: pull_back(e)[0])(basis)
        return rows.reshape(size, state.shape[0], size).transpose(0, 1)

    @property
    @override
    def selectable(self) -> bool:
        return self.select_rows is not None


@dataclass(frozen=True, eq=False, repr=False)
class AffineProblem(Brief, Problem):
    """``z = σ(Wz + q)``: an operator, an offset q of shape (batch, *state) and an activation."""

    operator: Operator
    offset: Tensor
    activation: Activation

    @override
    def evaluate(self, state: Tensor) -> Tensor:
        return self.activation(self.operator.affine(state, self.offset))

    def _slopes(self, state: Tensor) -> Tensor:
        return self.activation.derivative(self.operator.affine(state, self.offset))

    @override
    def tangent(self, state: Tensor, direction: Tensor) -> Tensor:
        return self._slopes(state) * self.operator.apply(direction)

    @override
    def jacobian(self, state: Tensor) -> Tensor:
        return self._slopes(state).flatten(1)[:, :, None] * self.operator.dense()

    @override
    def select(self, rows: Tensor | slice) -> AffineProblem:
        return AffineProblem(self.operator, self.offset[rows], self.activation.select(rows))

    @override
    def affine(self) -> AffineProblem:
        return self

    def to(self, dtype: torch.dtype) -> AffineProblem:
        """The problem in another precision."""
        return AffineProblem(self.operator.to(dtype), self.offset.to(dtype), self.activation.to(dtype))

"""Graphs of like size as one sparse block-diagonal map, with proved bounds of its norms."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from wellposed.numerics.brief import Brief
from wellposed.numerics.outward import enlarged, reduced
from wellposed.numerics.positional import PositionalFunction

_NORM_STEPS = 50
_NEUMANN_STEPS = 500
_SETTLED = 1.0 + 1e-9  # ratios that are so close are equal, as far as a search for a better vector goes


@dataclass(frozen=True, eq=False, repr=False)
class _Rows(Brief):
    """A sparse matrix in compressed rows: places where rows begin, columns, and values in float64."""

    begin: Tensor
    columns: Tensor
    values: Tensor
    in_dtype: dict[torch.dtype, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Tensor, columns: Tensor, values: Tensor, count: int) -> _Rows:
        order = torch.argsort(rows, stable=True)
        begin = torch.zeros(count + 1, dtype=torch.int64, device=rows.device)
        begin[1:] = torch.bincount(rows, minlength=count).cumsum(0)
        return cls(begin, columns[order], values[order])

    def product(self, dense: Tensor) -> Tensor:
        """The matrix times a dense one of shape (columns, features)."""
        if not self.columns.numel():
            return torch.zeros(len(self.begin) - 1, dense.shape[1], dtype=dense.dtype, device=dense.device)
        values = self.in_dtype.get(dense.dtype)
        if values is None:
            values = self.in_dtype[dense.dtype] = self.values.to(dense.dtype)
        return torch.nn.functional.embedding_bag(
            self.columns, dense, self.begin, mode="sum", per_sample_weights=values, include_last_offset=True
        )


class GraphGroup:
    """Graphs of like size: their adjacency A acting on states of shape (graphs, nodes, features).

    Args:
        shape: number of graphs, and of nodes that each is padded to.
        members: which graphs of the batch these are.
        nodes: which nodes of the batch belong here.
        places: where each of them is among the padded rows.
        targets: padded row that each edge leads to.
        sources: padded row that it comes from.
        weights: its weight, float64.
        guess: a positive number per node of the batch, float64: at best A's and AᵀA's Perron vector.
    """

    def __init__(
        self, shape: tuple[int, int], members: Tensor, nodes: Tensor, places: Tensor, targets: Tensor, sources: Tensor,
        weights: Tensor, guess: Tensor,
    ) -> None:  # fmt: skip
        self.shape, self.members, self.nodes, self.places = shape, members, nodes, places
        self._guess = torch.ones(shape, dtype=torch.float64, device=nodes.device)
        self._guess.view(-1)[places] = guess[nodes]
        self._padding = torch.ones(shape, dtype=torch.bool, device=nodes.device)
        self._padding.view(-1)[places] = False
        rows = shape[0] * shape[1]
        self._forward = _Rows.of(targets, sources, weights, rows)
        self._backward = _Rows.of(sources, targets, weights, rows)

    def pad(self, values: Tensor) -> Tensor:
        """Values per node of the batch, shape (all nodes, features), to the padded state of this group."""
        rows = values.new_zeros(self.shape[0] * self.shape[1], values.shape[1])
        return rows.index_copy(0, self.places, values[self.nodes]).reshape(*self.shape, -1)

    def unpad(self, state: Tensor) -> Tensor:
        """The rows of a padded state that are nodes, in the order of ``nodes``."""
        return state.flatten(0, 1)[self.places]

    def propagate(self, state: Tensor, *, transposed: bool = False) -> Tensor:
        """``A·state``, or ``Aᵀ·state``, for each graph; differentiable to every order."""
        return _Propagate.apply(state, self, transposed)

    def apply(self, state: Tensor, transposed: bool) -> Tensor:
        """`propagate` without its graph."""
        return (self._backward if transposed else self._forward).product(state.flatten(0, 1)).reshape(state.shape)

    @cached_property
    def largest_degree(self) -> int:
        """Most edges that lead to, or from, one node."""
        return int(max((part.begin[1:] - part.begin[:-1]).max() for part in (self._forward, self._backward)))

    def _absolute(self, vector: Tensor, transposed: bool) -> Tensor:
        part = self._backward if transposed else self._forward
        flat = _Rows(part.begin, part.columns, part.values.abs()).product(vector.reshape(-1, 1))
        return flat.reshape(self.shape)

    @cached_property
    def norm(self) -> Tensor:
        """Proved upper bound of ‖A‖₂ of every graph, shape (graphs,), float64 (Collatz–Wielandt for |A|ᵀ|A|)."""
        vector = self._guess
        best = torch.full_like(vector[:, 0], torch.inf)
        for _ in range(_NORM_STEPS):
            through = self._absolute(self._absolute(vector, False), True)
            ratio = enlarged((through / vector).amax(1), 2 * self.largest_degree + 2)
            best = torch.minimum(best, ratio)
            if self._settled(through, vector, ratio):
                break
            vector = _normalised(through + 1e-3 * best[:, None] * vector)
        return enlarged(best.sqrt(), 1) + 1e-150  # of squares that underflow

    def _settled(self, through: Tensor, vector: Tensor, ratio: Tensor) -> bool:
        """Whether the ratios of every graph's nodes agree, so that no vector gives a lower maximum."""
        lowest = torch.where(self._padding, torch.inf, through / vector).amin(1)
        return bool((ratio <= _SETTLED * lowest).all())

    def dominating(self, factor: float, *, transposed: bool = False) -> tuple[Tensor, Tensor]:
        """A vector v > 0 with v − factor·|A|v ≥ g, and that g, both of shape (graphs, nodes).

        If g > 0, then factor·λ_pf(|A|) < 1 is proved, and every e ≥ 0 with e ≤ factor·|A|e + d is at most v·max(d/g). The
        vector is a partial sum of (I − factor·|A|)⁻¹1, for which g tends to one.
        """
        vector = torch.ones(self.shape, dtype=torch.float64, device=self.places.device)
        for _ in range(_NEUMANN_STEPS):
            through = factor * self._absolute(vector, transposed)
            gap = reduced(vector, 1) - enlarged(through, self.largest_degree + 2)
            if bool((gap >= 0.5).all()):
                break
            vector = (1.0 + through).clamp_max(1e100)
        return vector, gap


def _normalised(vector: Tensor) -> Tensor:
    largest = vector.amax(1, keepdim=True)
    return (vector / torch.where(largest > 0, largest, 1.0)).clamp_min(1e-12)


class _Propagate(PositionalFunction):
    """``A·state``: linear, so its derivatives are itself and its adjoint."""

    @staticmethod
    def forward(state: Tensor, group: GraphGroup, transposed: bool) -> Tensor:
        return group.apply(state, transposed)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.group, ctx.transposed = inputs

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        return _Propagate.apply(cotangents[0], ctx.group, not ctx.transposed), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return _Propagate.apply(tangents[0], ctx.group, ctx.transposed)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], state: Tensor, group: GraphGroup, transposed: bool) -> Any:
        moved = state.movedim(in_dims[0], -1)  # (graphs, nodes, features, copies): copies are more features
        return _Propagate.apply(moved.flatten(2), group, transposed).reshape(moved.shape), -1

"""A batch of graphs as one sparse block-diagonal map, with proved bounds of its norms.

States are padded to (graphs, nodes, features), so that every graph is one sample of a solve and stops on its own; graphs of
like size are a group, and padding at most doubles the rows. Padding rows have no edges and stay zero.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from wellposed.errors import InputError, check, choices
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


class Graphs:
    """The structure of a batch of graphs; node features travel separately, as tensors of shape (nodes, features).

    Args:
        edge_index: shape (2, edges): sources, then targets, as in torch_geometric.
        nodes: number of nodes of all graphs together.
        batch: the graph that each node belongs to, shape (nodes,); None for one graph.
        weight: shape (edges,), without a gradient; None for ones.
        normalisation: ``"symmetric"`` adds a self-loop to every node and divides each weight by the root of the target's
            and the source's degree: then ‖A‖₂ ≤ 1, for directed graphs too. ``"spectral"`` divides each graph's weights by a
            proved bound of their norm where that exceeds one. ``"none"`` takes the weights as they are.
        count: number of graphs; None for what ``batch`` says, which misses graphs without nodes at the end.
    """

    def __init__(
        self,
        edge_index: Tensor,
        nodes: int,
        batch: Tensor | None = None,
        weight: Tensor | None = None,
        *,
        normalisation: str = "symmetric",
        count: int | None = None,
    ) -> None:
        choices("normalisation", normalisation, ("symmetric", "spectral", "none"))
        check(nodes >= 1, "nodes", nodes, "must be at least 1")
        device = edge_index.device
        batch = torch.zeros(nodes, dtype=torch.int64, device=device) if batch is None else batch
        source, target, values = _checked(edge_index, nodes, batch, weight)
        guess = torch.ones(nodes, dtype=torch.float64, device=device)
        if normalisation == "symmetric":
            source, target, values, guess = _symmetric(source, target, values, nodes)
        self.batch, self.nodes = batch, nodes
        least = int(batch.max()) + 1
        self.count = least if count is None else count
        check(self.count >= least, "count", count, f"batch names {least} graphs")
        self.sizes = torch.bincount(batch, minlength=self.count)
        self.groups = self._build(source, target, values, guess)
        if normalisation == "spectral":
            norms = torch.ones(self.count, dtype=torch.float64, device=device)
            for group in self.groups:
                norms[group.members] = group.norm.clamp_min(1.0)
            if not bool(torch.isfinite(norms).all()):
                raise InputError("weight: products of the weights overflow; rescale them")
            self.groups = self._build(source, target, values / norms[batch[target]], guess)

    @classmethod
    def of(cls, data: Any, *, normalisation: str = "symmetric") -> Graphs:
        """The structure of a torch_geometric ``Data`` or ``Batch``; edge attributes are not used."""
        count = getattr(data, "num_graphs", None)
        return cls(data.edge_index, int(data.num_nodes), data.batch, normalisation=normalisation, count=count)

    def _build(self, source: Tensor, target: Tensor, values: Tensor, guess: Tensor) -> tuple[GraphGroup, ...]:
        by_graph = torch.argsort(self.batch, stable=True)
        first = self.sizes.cumsum(0) - self.sizes
        local = torch.empty_like(by_graph)
        local[by_graph] = torch.arange(self.nodes, device=by_graph.device) - first[self.batch[by_graph]]
        order = torch.argsort(self.sizes, descending=True, stable=True)
        ordered = self.sizes[order].tolist()
        groups, start = [], 0
        while start < self.count:
            width = max(ordered[start], 1)
            # All that is left in one group if that at most doubles its rows, else those of at least half the size.
            stop = self.count
            if (stop - start) * width > 2 * sum(ordered[start:]):
                stop = next((i for i in range(start + 1, stop) if 2 * ordered[i] < width), stop)
            members = order[start:stop]
            rank = torch.full((self.count,), -1, dtype=torch.int64, device=by_graph.device)
            rank[members] = torch.arange(len(members), device=by_graph.device)
            nodes = (rank[self.batch] >= 0).nonzero().squeeze(1)
            place = rank[self.batch] * width + local
            inside = rank[self.batch[target]] >= 0
            groups.append(
                GraphGroup(
                    (len(members), width), members, nodes, place[nodes], place[target[inside]], place[source[inside]],
                    values[inside], guess,
                )
            )  # fmt: skip
            start = stop
        return tuple(groups)


def _checked(
    edge_index: Tensor, nodes: int, batch: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    if edge_index.ndim != 2 or edge_index.shape[0] != 2 or edge_index.dtype != torch.int64:
        raise InputError(
            f"edge_index: has shape {tuple(edge_index.shape)} and dtype {edge_index.dtype}; needs (2, edges) and int64"
        )
    if batch.shape != (nodes,) or batch.dtype != torch.int64 or int(batch.min()) < 0:
        raise InputError(f"batch: has shape {tuple(batch.shape)}, dtype {batch.dtype}; needs one graph number per node")
    source, target = edge_index
    if edge_index.numel() and not 0 <= int(edge_index.min()) <= int(edge_index.max()) < nodes:
        raise InputError(f"edge_index: names nodes outside 0…{nodes - 1}")
    if not bool((batch[source] == batch[target]).all()):
        raise InputError("edge_index: an edge leads from one graph of the batch into another")
    if weight is None:
        return source, target, torch.ones(len(source), dtype=torch.float64, device=source.device)
    if weight.requires_grad:
        raise InputError("weight: needs a gradient, but edge weights are constants here; give weight.detach()")
    if weight.shape != source.shape or not bool(torch.isfinite(weight).all()):
        raise InputError(f"weight: has shape {tuple(weight.shape)}; needs one finite number per edge")
    return source, target, weight.detach().double()


def _symmetric(source: Tensor, target: Tensor, values: Tensor, nodes: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Edges and weights of D_in^−½(A + I)D_out^−½, and the root of D_out, which AᵀA maps to itself."""
    if values.numel() and float(values.min()) < 0.0:
        raise InputError("weight: negative weights have no symmetric normalisation; use normalisation='spectral'")
    own = torch.arange(nodes, device=source.device)
    source, target = torch.cat([source, own]), torch.cat([target, own])
    values = torch.cat([values, torch.ones(nodes, dtype=torch.float64, device=source.device)])
    arriving = torch.zeros(nodes, dtype=torch.float64, device=source.device).index_add_(0, target, values)
    leaving = torch.zeros_like(arriving).index_add_(0, source, values)
    values = values / arriving[target].sqrt() / leaving[source].sqrt()
    if not bool(torch.isfinite(values).all()):
        raise InputError("weight: degrees overflow; rescale the weights")
    return source, target, values, leaving.sqrt()


def frobenius_norms(features: Tensor, batch: Tensor, count: int) -> Tensor:
    """Frobenius norm of the features of each graph's nodes, shape (count,), float64.

    Args:
        features: shape (nodes, features).
        batch: the graph of each node, shape (nodes,).
        count: number of graphs.
    """
    squares = torch.zeros(count, dtype=torch.float64, device=features.device)
    return squares.index_add_(0, batch, features.double().square().sum(1)).sqrt()

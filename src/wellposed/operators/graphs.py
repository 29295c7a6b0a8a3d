"""A batch of graphs as one sparse block-diagonal map, with proved bounds of its norms.

States are padded to (graphs, nodes, features), so that every graph is one sample of a solve and stops on its own; graphs of
like size are a group, and padding at most doubles the rows. Padding rows have no edges and stay zero.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wellposed.errors import InputError, check, checked_options, choices
from wellposed.numerics.handles import registered
from wellposed.numerics.uncompiled import uncompiled
from wellposed.operators.graph_group import GraphGroup


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

    Attributes:
        compiled_handle: the number by which compiled programs find these graphs.
    """

    @uncompiled
    @checked_options
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
        self.compiled_handle = registered(self)
        choices("normalisation", normalisation, ("symmetric", "spectral", "none"))
        check(nodes >= 0, "nodes", nodes, "must not be negative")
        device = edge_index.device
        batch = torch.zeros(nodes, dtype=torch.int64, device=device) if batch is None else batch
        source, target, values = _checked(edge_index, nodes, batch, weight)
        guess = torch.ones(nodes, dtype=torch.float64, device=device)
        if normalisation == "symmetric":
            source, target, values, guess = _symmetric(source, target, values, nodes)
        self.batch, self.nodes = batch, nodes
        least = int(batch.max()) + 1 if nodes else 0
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

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.compiled_handle = registered(self)  # copies are other objects

    @classmethod
    @uncompiled
    def of(cls, data: Any, *, normalisation: str = "symmetric") -> Graphs:
        """The structure of a torch_geometric ``Data`` or ``Batch``; edge attributes are not used."""
        is_graph = isinstance(getattr(data, "edge_index", None), Tensor) and hasattr(data, "num_nodes")
        check(is_graph, "data", data, "must be a torch_geometric Data or Batch with edge_index")
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
    if batch.shape != (nodes,) or batch.dtype != torch.int64 or (nodes and int(batch.min()) < 0):
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

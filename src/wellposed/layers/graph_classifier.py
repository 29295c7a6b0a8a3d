"""Classifiers of graphs: torch_geometric batches in, logits out."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from wellposed.errors import check, check_class, checked_fields
from wellposed.operators.graphs import Graphs


class NodeSum(nn.Module):
    """The sum of the states of each graph's nodes.

    Args:
        by_root: divide it by the root of the number of nodes: then its norm, as a linear map, is one.
    """

    def __init__(self, *, by_root: bool = False) -> None:
        super().__init__()
        self.by_root = by_root

    def forward(self, x: Tensor, graphs: Graphs) -> Tensor:
        """Shape (nodes, features) to (graphs, features)."""
        total = x.new_zeros(graphs.count, x.shape[1]).index_add(0, graphs.batch, x)
        return total / graphs.sizes.clamp_min(1).to(total.dtype).sqrt()[:, None] if self.by_root else total


@checked_fields
class GraphClassifier(nn.Module):
    """Layers on the symmetrically normalised adjacency, a pooling, and a head.

    Args:
        layers: modules of node features and `Graphs`, applied one after the other; the last of them pools.
        head: maps pooled states to logits.
    """

    def __init__(self, layers: tuple[nn.Module, ...], head: nn.Module) -> None:
        super().__init__()
        check_class("head", head, nn.Module, "must be a module")
        self.layers = nn.ModuleList(layers)
        self.head = head

    def forward(self, data: Any) -> Tensor:
        """Logits, shape (graphs, classes), of a torch_geometric ``Data`` or ``Batch`` with node features ``x``."""
        graphs = Graphs.of(data)
        check(isinstance(data.x, Tensor), "data", data, "has no node features x")
        value = data.x.to(next(self.parameters()).dtype)
        for layer in self.layers:
            value = layer(value, graphs)
        return self.head(value)

"""Deployed files of networks on graphs evaluated on one small graph, densely, in float64; a sample is its nodes' features."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from wellposed.falsification.deployed.contraction import settled

NODES = 4
# Sources and targets: edges in one direction only, one that occurs twice, one from a node to itself, and a node without edges.
EDGES = ((0, 0, 1, 2, 2), (1, 1, 0, 0, 2))


def feeds(x: Tensor) -> dict[str, np.ndarray]:
    """What a runtime takes for features of shape (batch, nodes, features): one graph for each sample."""
    count = len(x)
    offsets = np.arange(count)[:, None] * NODES
    edges = np.stack([(np.array(ends) + offsets).reshape(-1) for ends in EDGES])
    batch = np.repeat(np.arange(count), NODES)
    return {"x": x.reshape(count * NODES, -1).numpy(), "edge_index": edges, "batch": batch}


def adjacency() -> Tensor:
    """The matrix by which values of nodes are carried along edges: each over the roots of how many arrive, and leave."""
    edges = torch.eye(NODES, dtype=torch.float64, device="cpu")
    for source, target in zip(*EDGES, strict=True):
        edges[target, source] += 1.0
    return edges / torch.sqrt(edges.sum(1))[:, None] / torch.sqrt(edges.sum(0))


def equilibrium(node: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """The solution of X = S(through·A X Qᵀ + driven·A U Pᵀ + b), and for which samples it was not found.

    Derivatives are those of the last steps, which miss what a contraction leaves of them.
    """
    numbers, carried = node.numbers, adjacency()
    drive = numbers["driven"] * (carried @ x @ numbers["P"].t()) + numbers["b"]
    partner, lower = numbers["partner"], numbers["lower"].bool()

    def step(state: Tensor) -> Tensor:
        image = node.apply(numbers["through"] * (carried @ state @ numbers["Q"].t()) + drive)
        other = image[..., partner]
        return torch.where(lower, torch.minimum(image, other), torch.maximum(image, other))

    return settled(step, drive)


def node_sum(node: Any, x: Tensor) -> Tensor:
    """The sum over the nodes, over the root of how many there are."""
    return x.sum(1) / NODES**0.5

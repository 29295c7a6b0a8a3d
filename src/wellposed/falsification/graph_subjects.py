"""Graph classifiers for the campaign, with random graphs."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import nn

from wellposed.falsification.subject import drawing
from wellposed.layers.graph import ImplicitGraph
from wellposed.layers.graph_classifier import GraphClassifier, NodeSum

_GRAPHS = 60  # of a batch


def graph_subject(generator: torch.Generator) -> tuple[GraphClassifier, SimpleNamespace]:
    """A graph classifier with random directed graphs, in float64."""
    draw = drawing(generator)
    torch.manual_seed(draw(2**31 - 1))
    features, size, classes = 1 + draw(4), 2 * (1 + draw(3)), 2 + draw(2)
    variant = ("lipschitz", "orthogonal")[draw(2)]
    kappa = (0.5, 0.9, 1.0)[draw(3)] if variant == "lipschitz" else (0.3, 0.6, 0.9)[draw(3)]
    layers: list[nn.Module] = [
        ImplicitGraph(
            features if place == 0 else size, size, variant=variant, kappa=kappa, omega=(0.2, 0.5, 1.0)[draw(3)],
            activation=("group_sort", "relu", "tanh")[draw(3)], dtype=torch.float64,
        )
        for place in range(1 + draw(2))
    ]  # fmt: skip
    model = GraphClassifier((*layers, NodeSum(by_root=True)), nn.Linear(size, classes, dtype=torch.float64)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if draw(2):
                parameter.mul_(1.0 + 2.0 * draw(3))
    sizes = torch.randint(1, 7, (_GRAPHS,), generator=generator, device="cpu")
    first = sizes.cumsum(0) - sizes
    ends = [
        first[k] + torch.randint(0, int(sizes[k]), (2, int(sizes[k])), generator=generator, device="cpu")
        for k in range(_GRAPHS)
        if draw(4)
    ]
    nodes = int(sizes.sum())
    spread = (1.0, 1e-3, 1e3)[draw(3)]
    return model, SimpleNamespace(
        x=spread * torch.randn(nodes, features, generator=generator, dtype=torch.float64, device="cpu"),
        edge_index=torch.cat(ends, 1),
        batch=torch.arange(_GRAPHS, device="cpu").repeat_interleave(sizes), num_nodes=nodes, num_graphs=_GRAPHS,
    )  # fmt: skip

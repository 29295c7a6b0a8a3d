"""Lower bounds of the Lipschitz constants of graph classifiers: pairs of node features on the same graph."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.lower_bounds.slope import sure_slope
from wellposed.network import Network, bounded_logits, materialise
from wellposed.operators.graphs import frobenius_norms

_LENGTHS = (1e-1, 1e-2, 1e-3, 1e-4)


def graph_slope(model: nn.Module | Network, data: Any, *, rounds: int = 12, seed: int = 0) -> float:
    """The steepest slope that is proved on some graphs: along the steepest direction of the Jacobian, at features around theirs.

    Args:
        model: a `GraphClassifier` that `certify` knows.
        data: a torch_geometric ``Batch``.
        rounds: of random search for features where the Jacobian is larger.
        seed: of that search.
    """
    exact, generator = materialise(model).exact, torch.Generator().manual_seed(seed)
    point = with_features(data, data.x.detach().double().cpu())
    slopes, direction = steepest_features(exact, point)
    for round_ in range(rounds):
        noise = torch.randn(point.x.shape, generator=generator, dtype=torch.float64, device="cpu")
        trial = with_features(point, point.x + 2.0 ** (2 - round_ % 6) * noise)
        steeper, along = steepest_features(exact, trial)
        better = (steeper > slopes)[point.batch, None]
        point = with_features(point, torch.where(better, trial.x, point.x))
        slopes, direction = torch.maximum(slopes, steeper), torch.where(better, along, direction)
    start = bounded_logits(exact, point)
    best = 0.0
    for length in _LENGTHS:
        other = with_features(point, point.x + length * direction)
        end = bounded_logits(exact, other)
        moved, error = (end.logits - start.logits).norm(dim=1), start.error + end.error
        apart = frobenius_norms(other.x - point.x, point.batch, point.num_graphs)
        slopes = sure_slope(moved, error, apart, outputs=end.logits.shape[1], inputs=point.x.numel())
        best = max(best, float(slopes.amax()))
    return best


@torch.enable_grad()
def steepest_features(exact: Network, data: Any) -> tuple[Tensor, Tensor]:
    """Per graph the norm of the logits' Jacobian, shape (graphs,), and the features of norm one that attain it."""
    features = data.x.detach().requires_grad_()
    logits = exact(with_features(data, features))
    rows = [torch.autograd.grad(part.sum(), features, retain_graph=True)[0] for part in logits.unbind(1)]
    jacobian = torch.stack(rows)  # (classes, nodes, features)
    gram = jacobian.new_zeros(len(logits), len(rows), len(rows))
    gram.index_add_(0, data.batch, torch.einsum("avf,bvf->vab", jacobian, jacobian))
    squares, outputs = torch.linalg.eigh(gram)
    found = torch.einsum("va,avf->vf", outputs[data.batch][:, :, -1], jacobian)
    return squares[:, -1].clamp_min(0.0).sqrt(), found / frobenius_norms(found, data.batch, data.num_graphs).clamp_min(
        1e-300
    )[data.batch, None]


def with_features(data: Any, features: Tensor) -> Any:
    """The same graphs with other node features."""
    found = copy.copy(data)
    found.x = features
    return found

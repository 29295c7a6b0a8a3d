"""Adversarial node features: projected gradients in the Frobenius norm, through exact implicit gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.lower_bounds.graph_witness import with_features
from wellposed.network import Network, materialise, surely_misclassified
from wellposed.numerics.outward import enlarged_norm, rounding_constant
from wellposed.operators.graphs import frobenius_norms

_HALVINGS = 10


def graph_distances(model: nn.Module, data: Any, labels: Tensor, radii: Sequence[float], *, steps: int) -> Tensor:
    """The smallest changes of node features that were found to change the class.

    Args:
        model: a `GraphClassifier` that `certify` knows.
        data: a torch_geometric ``Batch``.
        labels: true classes, shape (graphs,).
        radii: in the Frobenius norm, at which to search.
        steps: of gradients, at each radius.

    Returns:
        Shape (graphs,), float64: zero where misclassified, infinite where nothing was found.
    """
    exact = materialise(model).exact
    clean = with_features(data, data.x.detach().double().cpu())
    with torch.no_grad():
        found = torch.where(exact(clean).argmax(1) == labels, torch.inf, 0.0).double()
    for radius in sorted(radii):
        if not bool((found > radius).any()):
            break
        change = best = torch.zeros_like(clean.x)
        least = torch.full_like(found, torch.inf)
        for step in range(steps + 1):
            margins, slope = _margins(exact, with_features(clean, clean.x + change), labels)
            best = torch.where((margins < least)[clean.batch, None], change, best)
            least = torch.minimum(least, margins)
            goal = -radius * slope / _norms(slope, clean).clamp_min(1e-300)[clean.batch, None]
            change = change + 0.5 ** (4 * step / steps) * (goal - change)  # both inside, so what is between them too
        fooled = surely_misclassified(exact, with_features(clean, clean.x + best), labels) & (found > radius)
        if bool(fooled.any()):
            found = torch.where(fooled, _least(exact, clean, best, labels), found)
    return found


def _least(exact: nn.Module | Network, clean: Any, change: Tensor, labels: Tensor) -> Tensor:
    """The norm of the smallest multiple, at most one, of a change that is found to fool, where the whole does."""
    low, high = (
        torch.zeros(clean.num_graphs, dtype=torch.float64, device="cpu"),
        torch.ones(clean.num_graphs, dtype=torch.float64, device="cpu"),
    )
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        tried = with_features(clean, clean.x + middle[clean.batch, None] * change)
        fooled = surely_misclassified(exact, tried, labels)
        low, high = torch.where(fooled, low, middle), torch.where(fooled, middle, high)
    # Adding the multiple rounds its product and the sum: at most two units of the change and one of the features.
    entries = clean.x.numel() + 3
    moved, size = (enlarged_norm(norm, entries) for norm in (high * _norms(change, clean), _norms(clean.x, clean)))
    return moved + rounding_constant(2) * size


@torch.enable_grad()
def _margins(exact: nn.Module | Network, data: Any, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The least margin of each graph, and its gradient with respect to the node features."""
    features = data.x.detach().requires_grad_()
    logits = exact(with_features(data, features))
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    margin = logits.gather(1, labels[:, None])[:, 0] - others
    return margin.detach(), torch.autograd.grad(margin.sum(), features)[0]


def _norms(features: Tensor, data: Any) -> Tensor:
    return frobenius_norms(features, data.batch, data.num_graphs)

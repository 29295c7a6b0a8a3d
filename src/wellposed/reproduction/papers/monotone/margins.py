"""Figures 3 and 8: PAC-Bayes bounds and test errors of networks that are trained to a margin."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.comparison.explicit_risk import VERSIONS, neyshabur_log10, unrolled_log10
from wellposed.comparison.unrolled import unrolled
from wellposed.data import ImageData, load_images
from wellposed.generalisation.pac_bayes import pac_bayes
from wellposed.layers.options import solving_modules
from wellposed.models.classifier import classifier
from wellposed.models.families import MonDEQFamily
from wellposed.numerics.verified import spectral_norm_upper_bound
from wellposed.reproduction.cell import Workspace
from wellposed.reproduction.networks import facts, trained
from wellposed.solvers.solution import Tolerance
from wellposed.training.config import TrainConfig
from wellposed.training.run import load_image_run

DELTA, SHARE = 0.1, 0.1
VERSIONS_OF_THEOREM_3 = ("published", "repaired", "tightened")
RATE_EXPLICIT, RATE_MONOTONE = 3e-3, 1e-2
_BATCH = 128
_TOLERANCE, _LIMIT, _IMAGES = 1e-3, 2000, 100  # of unrolled iterations, see `unrolling`


def explicit_to_margin(
    workspace: Workspace, *, depth: int, width: int, samples: int, gamma: float, epochs: int, seed: int,
    learning_rate: float = RATE_EXPLICIT, orthogonal: bool = False, weight_decay: float = 0.0, descent_of: int | None = None,
    maps: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train an explicit network without biases until less than a tenth of its samples have a margin below γ, and bound its risk.

    ``orthogonal`` weights to begin with are √2 times orthogonal ones; ``weight_decay`` is of Adam; ``descent_of`` is the size of
    batches of plain gradient descent in the place of Adam; ``maps`` is the number of linear maps, ``depth`` unless it is given.

    Returns:
        What `_trained_to_margin` says, and ``log10`` of the published and the repaired bound of Neyshabur et al.
    """
    data = _data(workspace)
    torch.manual_seed(seed)
    sizes = [math.prod(data.shape), *[width] * ((depth if maps is None else maps) - 1)]
    hidden = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b, bias=False), nn.ReLU())]
    model = classifier((*hidden, nn.Linear(sizes[-1], data.classes, bias=False)), data.mean, data.std)
    weights = [part.weight for part in model.modules() if isinstance(part, nn.Linear)]
    for weight in weights if orthogonal else ():
        nn.init.orthogonal_(weight, math.sqrt(2.0))
    optimizer: torch.optim.Optimizer
    if descent_of is None:
        optimizer, batch = torch.optim.Adam(model.parameters(), learning_rate, weight_decay=weight_decay), _BATCH
    else:
        optimizer, batch = torch.optim.SGD(model.parameters(), learning_rate), descent_of
    found, radius = _trained_to_margin(model, data, samples, gamma, epochs, seed, optimizer, batch)
    bounds = {
        version: neyshabur_log10(weights, samples, radius=radius, gamma=gamma, delta=DELTA, version=version)
        for version in VERSIONS
    }
    return {**found, "log10": {version: _with_loss(found, bound) for version, bound in bounds.items()}}


def monotone_to_margin(
    workspace: Workspace,
    *,
    m: float,
    width: int,
    samples: int,
    gamma: float,
    epochs: int,
    seed: int,
    steps: Sequence[float],
    learning_rate: float = RATE_MONOTONE,
) -> dict[str, Any]:
    """Train a dense monotone network until less than a tenth of its samples have a margin below γ, and bound its risk.

    Returns:
        What `_trained_to_margin` says; ``log10`` of each version of Theorem 3; and for each step α of ``steps``
        ``unrolled_log10``, the bound of Appendix E of the unrolled iterations, None where they do not settle.
    """
    data = _data(workspace)
    torch.manual_seed(seed)
    body = MonDEQFamily(width=width, m=m).build(data.shape, data.classes)
    model = classifier(body, data.mean, data.std)
    optimizer = torch.optim.Adam(model.parameters(), learning_rate)
    found, radius = _trained_to_margin(model, data, samples, gamma, epochs, seed, optimizer, _BATCH)
    x, y = data.train_x[:samples], data.train_y[:samples]
    for module in solving_modules(model):
        module.tolerance = Tolerance()
    log10 = _by_theorem_3(model, _logits(model, x), y, radius, gamma)
    inputs = _normalised(model, x[:_IMAGES])
    unrolled_bounds = [_unrolled(body, inputs, step, samples, radius, gamma) for step in steps]
    shown = [None if bound is None else _with_loss(found, bound) for bound in unrolled_bounds]
    return {**found, "log10": log10, "unrolled_log10": shown}


def risk_of_trained(
    workspace: Workspace, *, m: float, config: dict[str, Any], samples: int, gamma: float, radius: float
) -> dict[str, Any]:
    """Train a dense monotone network on all images for some epochs, and bound its risk as of ``samples`` of them.

    Returns:
        What `facts` says; ``epochs``; ``margin_error``, the share of those samples with a margin of at most γ; ``reached``,
        whether it is below a tenth; and ``log10`` of each version of Theorem 3.
    """
    run = trained(workspace, TrainConfig.from_dict(config))
    _, data, model = load_image_run(run, workspace.data_root)
    x, y = data.train_x[:samples], data.train_y[:samples]
    logits = _logits(model, x)
    error = _margin_error(logits, y, gamma)
    log10 = _by_theorem_3(model, logits, y, radius, gamma)
    found = {"epochs": config["epochs"], "margin_error": error, "reached": error < SHARE, "log10": log10}
    return {**facts(workspace, run), **found}


def _by_theorem_3(model: nn.Module, logits: Tensor, labels: Tensor, radius: float, gamma: float) -> dict[str, float]:
    """log₁₀ of each version of the bound."""
    return {
        version: math.log10(
            pac_bayes(model, logits, labels, radius=radius, gamma=gamma, delta=DELTA, version=version).value
        )
        for version in VERSIONS_OF_THEOREM_3
    }


def _data(workspace: Workspace) -> ImageData:
    return load_images("mnist", workspace.data_root)


def _trained_to_margin(
    model: nn.Sequential, data: ImageData, samples: int, gamma: float, epochs: int, seed: int,
    optimizer: torch.optim.Optimizer, batch: int,
) -> tuple[dict[str, Any], float]:  # fmt: skip
    """Train until the margin is reached, or the epochs are over.

    Returns:
        ``epochs`` that it took; ``margin_error``, the share of samples with a margin of at most γ; ``reached``; ``test_error``
        and ``majority_error`` in %, and ``classes_named``; and beside it the largest norm of a normalised training input.
    """
    x, y = data.train_x[:samples], data.train_y[:samples]
    generator = torch.Generator().manual_seed(seed)
    error, epoch = 1.0, 0
    while error >= SHARE and epoch < epochs:
        epoch += 1
        model.train()
        for rows in torch.randperm(samples, generator=generator, device="cpu").split(batch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
        model.eval()
        error = _margin_error(_logits(model, x), y, gamma)
    predictions = _logits(model, data.test_x).argmax(1)
    counts = torch.bincount(data.test_y)
    found = {
        "epochs": epoch, "margin_error": error, "reached": error < SHARE,
        "test_error": 100.0 * float((predictions != data.test_y).double().mean()),
        "majority_error": 100.0 * (1.0 - float(counts.max()) / len(data.test_y)), "classes_named": len(predictions.unique()),
    }  # fmt: skip
    return found, float(_normalised(model, x).norm(dim=1).max())


@torch.no_grad()
def _logits(model: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([model(part) for part in x.split(1000)])


def _margin_error(logits: Tensor, labels: Tensor, gamma: float) -> float:
    """The share of samples whose margin is at most γ."""
    truth = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], -math.inf).amax(1)
    return float((truth - others <= gamma).double().mean())


@torch.no_grad()
def _normalised(model: nn.Sequential, x: Tensor) -> Tensor:
    """What the network's first layer sees, float64."""
    return model[:2](x).double()


def _with_loss(found: dict[str, Any], complexity_log10: float) -> float:
    """log₁₀ of margin error + complexity, which may be too large for a number."""
    loss = math.log10(max(found["margin_error"], 1e-300))
    top = max(loss, complexity_log10)
    return top + math.log10(10.0 ** (loss - top) + 10.0 ** (complexity_log10 - top))


@torch.no_grad()
def _unrolled(
    body: tuple[nn.Module, ...], inputs: Tensor, step: float, samples: int, radius: float, gamma: float
) -> float | None:
    """log₁₀ of the complexity of Appendix E; None where the iterations do not settle."""
    layer: Any
    head: Any
    layer, head = body
    network = unrolled(layer, "forward_backward", step)
    depth = network.depth_within(inputs, _TOLERANCE, _LIMIT)
    if depth is None or depth < 2:
        return None
    parts = [layer.constraint.A, layer.constraint.B, layer.injection.matrix().weight, head.weight]
    spectral = [spectral_norm_upper_bound(part.double()) for part in (*parts[:2], network.hidden, parts[3])]
    squares = sum(float(part.double().square().sum()) for part in parts)
    return unrolled_log10(
        (spectral[0], spectral[1], spectral[2], spectral[3]), squares, layer.state_features, samples, depth=depth, step=step,
        radius=radius, gamma=gamma, delta=DELTA,
    )  # fmt: skip

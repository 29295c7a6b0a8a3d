"""The attacks of AutoAttack (Croce & Hein 2020) within a radius, as the adversarial robustness toolbox has them."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wellposed.errors import InputError, check, choices, require


def auto_attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    radius: float,
    *,
    norm: str = "2",
    steps: int = 100,
    restarts: int = 5,
    queries: int = 5000,
) -> list[Tensor]:
    """Auto-PGD for the cross-entropy and for the difference-of-logits ratio, then the Square attack, which uses no gradient.

    Args:
        model: maps pixels in [0, 1] to logits, at least three; in eval mode.
        images: shape (batch, channels, height, width).
        labels: true classes, shape (batch,).
        radius: in pixel units.
        norm: ``"2"`` or ``"inf"``.
        steps: of Auto-PGD.
        restarts: of each attack.
        queries: of the Square attack.

    Returns:
        One batch of candidates per attack; they need not fool the model.

    Raises:
        MissingExtraError: the toolbox is not installed.
        InputError: no images, or ones of another shape.
    """
    evasion = require("art.attacks.evasion", "auto")
    estimators = require("art.estimators.classification", "auto")
    choices("norm", norm, ("2", "inf"))
    check(0.0 < radius < math.inf, "radius", radius, "must be positive and finite")
    if images.ndim != 4 or not len(images):
        raise InputError(f"images: have shape {tuple(images.shape)}; need some of (batch, channels, height, width)")
    logging.getLogger("art").setLevel(logging.WARNING)
    gradients = [parameter.grad for parameter in model.parameters()]
    numbers = np.random.get_state()  # noqa: NPY002  # the toolbox draws from the global generator
    np.random.seed(torch.initial_seed() % 2**32)  # noqa: NPY002
    try:
        with torch.random.fork_rng():
            return _candidates(model, images, labels, radius, norm, (steps, restarts, queries), (evasion, estimators))
    finally:
        np.random.set_state(numbers)  # noqa: NPY002
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient


def _candidates(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    radius: float,
    norm: str,
    effort: tuple[int, int, int],
    toolbox: tuple[Any, Any],
) -> list[Tensor]:
    with torch.no_grad():
        classes = model(images[:1]).shape[1]
    (steps, restarts, queries), (evasion, estimators) = effort, toolbox
    wrapped = estimators.PyTorchClassifier(
        _Tolerant(model, images.dtype), nn.CrossEntropyLoss(), tuple(images.shape[1:]), classes, clip_values=(0.0, 1.0),
        device_type="cpu" if images.device.type == "cpu" else "gpu",
    )  # fmt: skip
    common = {
        "norm": 2 if norm == "2" else np.inf, "eps": radius, "batch_size": len(images), "verbose": False,
    }  # fmt: skip
    attacks = [
        evasion.AutoProjectedGradientDescent(
            wrapped, eps_step=2.0 * radius, max_iter=steps, nb_random_init=restarts, loss_type=loss, **common
        )
        for loss in ("cross_entropy", *(("difference_logits_ratio",) if classes > 2 else ()))
    ]
    attacks.append(evasion.SquareAttack(wrapped, max_iter=queries, nb_restarts=1, **common))
    pixels, truth = images.detach().cpu().numpy(), labels.cpu().numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        found = [torch.from_numpy(attack.generate(pixels, truth)).to(images) for attack in attacks]
    # The toolbox's Euclidean Square attack divides zero by zero now and then.
    return [torch.where(torch.isfinite(candidates), candidates, images) for candidates in found]


class _Tolerant(nn.Module):
    """The model in its own precision, with NaN for the logits of images that have some: such proposals are never taken."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, images: Tensor) -> Tensor:
        broken = torch.isnan(images).flatten(1).any(1)
        logits = self.model(torch.nan_to_num(images).to(self.dtype)).to(images.dtype)
        return torch.where(broken[:, None], torch.nan, logits)

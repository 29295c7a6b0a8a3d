"""The attacks of AutoAttack (Croce & Hein 2020) within a radius, as the adversarial robustness toolbox has them."""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import Tensor, nn

from wellposed.errors import require


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
    """
    evasion = require("art.attacks.evasion", "auto")
    estimators = require("art.estimators.classification", "auto")
    logging.getLogger("art").setLevel(logging.WARNING)
    with torch.no_grad():
        classes = model(images[:1]).shape[1]
    np.random.seed(torch.initial_seed() % 2**32)  # noqa: NPY002  # the toolbox draws from the global generator
    wrapped = estimators.PyTorchClassifier(
        model, nn.CrossEntropyLoss(), tuple(images.shape[1:]), classes, clip_values=(0.0, 1.0),
        device_type="cpu" if images.device.type == "cpu" else "gpu",
    )  # fmt: skip
    order = 2 if norm == "2" else np.inf
    common = {"norm": order, "eps": radius, "batch_size": len(images), "verbose": False}
    attacks = [
        evasion.AutoProjectedGradientDescent(
            wrapped, eps_step=2.0 * radius, max_iter=steps, nb_random_init=restarts, loss_type=loss, **common
        )
        for loss in ("cross_entropy", *(("difference_logits_ratio",) if classes > 2 else ()))
    ]
    attacks.append(evasion.SquareAttack(wrapped, max_iter=queries, nb_restarts=1, **common))
    pixels, truth = images.detach().cpu().numpy(), labels.cpu().numpy()
    return [torch.from_numpy(attack.generate(pixels, truth)).to(images) for attack in attacks]

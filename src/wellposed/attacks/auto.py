"""AutoAttack (Croce & Hein 2020) within a radius, by its authors' package."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.attacks.leaving import unchanged
from wellposed.certificates.radius import check_labels
from wellposed.errors import InputError, check, checked_options, require
from wellposed.numerics.norm import norm_named

_LEAST = 5  # rows of an image, of which Square takes fifths
_WITHIN = 1.0 - 1e-6  # float32 goes a little beyond the radius that it is told
_NORMS = {"1": "L1", "2": "L2", "inf": "Linf"}


@checked_options
def auto_attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    radius: float,
    *,
    norm: float | str = 2,
    steps: int = 100,
    queries: int = 5000,
) -> Tensor:
    """The standard ensemble: Auto-PGD on the cross-entropy and, targeted, on the logits' ratio; FAB, targeted; Square.

    Each attack gets the images that the ones before it left. With three classes the ratio has no targeted form, with two it has
    none at all; with fewer than ten all wrong classes are targets.

    Args:
        model: maps pixels in [0, 1] to logits; attacked in eval mode. It is left as it was, see `unchanged`.
        images: shape (batch, channels, height, width).
        labels: true classes, shape (batch,).
        radius: in pixel units.
        norm: ``"1"``, ``"2"`` or ``"inf"``.
        steps: of Auto-PGD and FAB.
        queries: of Square, which uses no gradient.

    Returns:
        Candidates, shape of ``images``; they equal the images where no attack succeeded.

    Raises:
        MissingExtraError: the package is not installed.
        InputError: no images, ones of another shape, or fewer than two classes.
    """
    with unchanged(model):  # the package sets loggers when it is imported
        return _attacked(model, images, labels, radius, norm, steps, queries)


def _attacked(
    model: nn.Module, images: Tensor, labels: Tensor, radius: float, norm: float | str, steps: int, queries: int
) -> Tensor:
    """What `auto_attack` does to a model in eval mode."""
    package = require("pyautoattack", "auto")
    norm = norm_named(norm)
    check(0.0 < radius < math.inf, "radius", radius, "must be positive and finite")
    if images.ndim != 4 or not len(images):
        raise InputError(f"images: have shape {tuple(images.shape)}; need some of (batch, channels, height, width)")
    if norm != "inf" and min(images.shape[2:]) < _LEAST:
        raise InputError(
            f"images: have shape {tuple(images.shape)}; Square takes {_LEAST}×{_LEAST} pixels or more in this norm"
        )
    check_labels(labels, len(images))
    for name, value in (("steps", steps), ("queries", queries)):
        check(value >= 1, name, value, "must be at least 1")
    with torch.no_grad():
        classes = model(images[:1]).shape[1]
    check(classes >= 2, "model", f"{classes} logit", "must tell two classes apart")

    def logits(pixels: Tensor) -> Tensor:
        return model(pixels.to(images.dtype)).float()  # the package computes in float32

    second = {2: [], 3: ["apgd-dlr"]}.get(classes, ["apgd-t"])
    attack = package.AutoAttack(
        logits, norm=_NORMS[norm], eps=radius * _WITHIN, seed=torch.initial_seed() % 2**32, device=images.device,
        version="custom", attacks=["apgd-ce", *second, "fab-t", "square"],
    )  # fmt: skip
    _configure(attack, norm, classes, steps, queries)
    logging.getLogger("auto-attack").setLevel(logging.ERROR)  # exact gradients of a solve pass for a "dynamic defence"
    found = attack.run_standard_evaluation(images.detach().float(), labels, batch_size=len(images))[0]
    moved = (found != images.float()).flatten(1).any(1)
    return torch.where(moved[:, None, None, None], found.to(images.dtype), images)


def _configure(attack: Any, norm: str, classes: int, steps: int, queries: int) -> None:
    """The standard ensemble's options for a norm, and how long its attacks take."""
    attack.apgd.n_restarts = 5 if norm == "1" else 1
    targets = min(5 if norm == "1" else 9, classes - 1)
    attack.apgd_targeted.n_target_classes, attack.fab.n_target_classes = targets, min(9, classes - 1)
    for part in (attack.apgd, attack.apgd_targeted):
        part.n_iter = part.n_iter_orig = steps
        part.use_largereps = norm == "1"
    attack.fab.n_iter, attack.fab.n_restarts, attack.square.n_queries = steps, 1, queries

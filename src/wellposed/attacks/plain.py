"""Perturbations that no search chooses, as papers draw curves of them: noise, inverted images, one step along the gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.attacks.search import Judge, Search
from wellposed.certificates.radius import check_labels
from wellposed.errors import check_number, checked_options, choices, require
from wellposed.numerics.norm import Norm, norm_named

_BATCH = 1000
_WITHIN = 1.0 - 1e-6  # float32 goes a little beyond the size that it is told


def _noise(model: nn.Module, images: Tensor, labels: Tensor, size: float, norm: str) -> Tensor:
    """Every pixel moved by a uniformly distributed number of at most ``size``; one draw."""
    return (images + size * (2.0 * torch.rand_like(images) - 1.0)).clamp(0.0, 1.0)


def _inversion(model: nn.Module, images: Tensor, labels: Tensor, size: float, norm: str) -> Tensor:
    """Every pixel x moved towards 1 − x by at most ``size``: the inverted image at size 1."""
    return images + (1.0 - 2.0 * images).clamp(-size, size)


def _gradient_step(model: nn.Module, images: Tensor, labels: Tensor, size: float, norm: str) -> Tensor:
    """One step along the gradient of the cross-entropy, foolbox's fast gradient attack in that norm."""
    known = require("foolbox", "attack")
    attack = {"2": known.attacks.L2FastGradientAttack, "inf": known.attacks.LinfFastGradientAttack}[norm]
    wrapped = known.PyTorchModel(model, bounds=(0, 1), device=images.device)
    found: Any = attack()(wrapped, images, labels, epsilons=size)[1]
    return found.detach()


PLAIN: dict[str, tuple[tuple[Norm, ...], Callable[[nn.Module, Tensor, Tensor, float, str], Tensor]]] = {
    "noise": (("inf",), _noise),
    "inversion": (("inf",), _inversion),
    "gradient-step": (("2", "inf"), _gradient_step),
}  # by name, with the norms that the size is measured in


@checked_options
def plain_distances(
    model: nn.Module, x: Tensor, labels: Tensor, radii: Sequence[float], *, name: str, norm: float | str = "inf",
    is_fooled: Judge | None = None,
) -> Tensor:  # fmt: skip
    """The smallest of some sizes at which a perturbation fools a model.

    Args:
        model: maps pixels in [0, 1] to logits; in eval mode.
        x: images, shape (batch, ...).
        labels: true classes, shape (batch,).
        radii: sizes to try, in pixel units.
        name: ``"noise"``, uniform in every pixel, one draw for each size; ``"inversion"``, every pixel x moved towards 1 − x by
            at most the size; or ``"gradient-step"``, one step along the gradient of the cross-entropy (Goodfellow et al. 2015).
        norm: ``"inf"``, or ``"2"`` for the gradient step.
        is_fooled: see `adversarial_distances`.

    Returns:
        Distances in that norm, shape (batch,), float64: zero for misclassified images, infinite where no size fooled the model.

    Raises:
        MissingExtraError: foolbox, which takes gradient steps, is not installed.
        InputError: there is no such perturbation, or it is not about that norm.
    """
    choices("name", name, tuple(PLAIN))
    norms, perturbed = PLAIN[name]
    norm = norm_named(norm, norms)
    check_labels(labels, len(x))
    for radius in radii:
        check_number("radii", radius, 0.0, math.inf, "must be positive and finite")
    judge = is_fooled or (lambda images, truth: model(images).argmax(1) != truth)
    found = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for images, truth in zip(x.split(_BATCH), labels.split(_BATCH), strict=True):
            search = Search(judge, images, truth, float(norm))
            for radius in sorted(radii):
                search.press(lambda some, few, size: perturbed(model, some, few, _WITHIN * size, norm), radius)
            found.append(search.best)
    return torch.cat(found)

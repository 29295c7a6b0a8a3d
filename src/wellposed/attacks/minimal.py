"""Attacks by foolbox: the smallest adversarial perturbation found for every input, in the Euclidean, the ℓ∞ or the ℓ1 norm.

A minimal-norm attack comes first: DeepFool or, in ℓ1, for which DeepFool has no step, the attack of Pintor et al. (2021).
Projected gradient descent at each radius goes after the margin, largest wrong logit less the right one: unlike the cross-entropy,
the margin has a gradient that does not vanish where the network is sure. Gradients of implicit layers are exact.

Foolbox's attacks have steps and thresholds of their own, which are about inputs of size one. Inputs in a box of their own are
attacked in units that `wellposed.attacks.units` chooses.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.attacks.auto import auto_attack
from wellposed.attacks.leaving import unchanged
from wellposed.attacks.search import Judge, Search
from wellposed.attacks.units import FAR, Moved, first_order_distances
from wellposed.certificates.radius import check_labels
from wellposed.errors import InputError, check, check_number, checked_options, require
from wellposed.numerics.norm import Norm, norm_named

_BATCH = 250  # inputs attacked at a time


@checked_options
def adversarial_distances(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    radii: Sequence[float],
    *,
    norm: float | str = 2,
    steps: int = 40,
    restarts: int = 1,
    carlini_wagner: int = 0,
    auto: bool = False,
    is_fooled: Judge | None = None,
    done: Callable[[int], None] = lambda count: None,
    box: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Attack every input with a minimal-norm attack and with projected gradient descent at each radius.

    Args:
        model: maps inputs (pixels unless a box is given) to logits; attacked in eval mode. Its modes and gradients and the global
            random generators and loggers, are afterwards as they were.
        x: inputs, shape (batch, ...).
        labels: true classes, shape (batch,).
        radii: in pixel units, for projected gradient descent.
        norm: ``"2"``, ``"inf"`` or ``"1"``.
        steps: of projected gradient descent.
        restarts: how often projected gradient descent is run, each time from another random start.
        carlini_wagner: steps of the attack of Carlini & Wagner (2017), Euclidean and minimal-norm; zero to leave it out.
        auto: whether to run `auto_attack` too, at each radius on the inputs that have withstood all others.
        is_fooled: judges candidates; by default the model's largest logit decides. A stricter judge counts the errors of solves.
        done: called with the number of inputs finished so far.
        box: least and largest values that inputs may have, of shapes that are broadcast to theirs; None for 0 and 1.

    Returns:
        Distances of shape (batch,), float64: zero for misclassified inputs, infinite where no attack succeeded; and the
        adversarial examples, equal to the inputs where there is none.

    Raises:
        MissingExtraError: foolbox, or the package for ``auto``, is not installed.
        InputError: inputs outside the box, or AutoAttack for other inputs than images.
    """
    norm = norm_named(norm)
    edges = (torch.tensor(0.0, device="cpu"), torch.tensor(1.0, device="cpu")) if box is None else box
    judge = is_fooled or (lambda images, truth: model(images).argmax(1) != truth)
    found: list[Search] = []
    with unchanged(model):
        attacks = _attacks(norm, radii, steps, restarts, carlini_wagner)
        check(not auto or x.ndim == 4, "auto", auto, "AutoAttack is for images")
        labels = _checked_labels(model, x, labels, edges)
        if not len(x):
            return torch.zeros(0, dtype=torch.float64, device="cpu"), x
        torch.manual_seed(0)
        for images, truth in zip(x.detach().split(_BATCH), labels.split(_BATCH), strict=True):
            found.append(Search(judge, images, truth, float(norm), edges))
            _attack(model, found[-1], attacks, edges, norm)
            for radius in radii if auto else ():
                found[-1].press(functools.partial(auto_attack, model, norm=norm), radius)
            done(sum(len(search.best) for search in found))
    return torch.cat([search.best for search in found]), torch.cat([search.examples for search in found])


def _checked_labels(model: nn.Module, x: Tensor, labels: Tensor, box: tuple[Tensor, Tensor]) -> Tensor:
    """Labels as foolbox takes them, where they and the pixels are what an attack is about."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise InputError(f"x: is a {type(x).__name__}; needs a floating-point torch tensor of shape (batch, ...)")
    check_labels(labels, len(x))
    if not len(x):
        return labels
    with torch.no_grad():
        classes = model(x[:1]).shape[1]
    inside = 0 <= int(labels.min()) <= int(labels.max()) < classes
    check(inside, "labels", (int(labels.min()), int(labels.max())), f"must lie in 0…{classes - 1}")
    if not bool(((x >= box[0]) & (x <= box[1])).all()):
        reach = f"[{float(box[0].min()):.3g}, {float(box[1].max()):.3g}]"
        raise InputError(f"x: pixels span [{float(x.min()):.3g}, {float(x.max()):.3g}]; they must lie in {reach}")
    return labels.long()


def _attacks(
    norm: str, radii: Sequence[float], steps: int, restarts: int, carlini_wagner: int
) -> list[tuple[Any, list[Any]]]:
    """The attacks of foolbox, with the radii to run each at; None for one that looks for the smallest."""
    for name, value, least in (("steps", steps, 1), ("restarts", restarts, 1), ("carlini_wagner", carlini_wagner, 0)):
        check(isinstance(value, int) and value >= least, name, value, f"must be an integer of at least {least}")
    check(norm == "2" or not carlini_wagner, "carlini_wagner", carlini_wagner, "is Euclidean")
    for radius in radii:
        check_number("radii", radius, 0.0, math.inf, "must be positive and finite")
    known = require("foolbox", "attack").attacks
    nearest, descent = {
        "2": (known.L2DeepFoolAttack, known.L2ProjectedGradientDescentAttack),
        "inf": (known.LinfDeepFoolAttack, known.LinfProjectedGradientDescentAttack),
        "1": (known.L1FMNAttack, known.SparseL1DescentAttack),
    }[norm]
    attacks: list[tuple[Any, list[Any]]] = [(nearest(), [None])]
    if radii:
        attacks += [(_on_margins(descent)(steps=steps), list(radii))] * restarts
    if carlini_wagner:
        attacks.append((known.L2CarliniWagnerAttack(binary_search_steps=5, steps=carlini_wagner), [None]))
    return attacks


def _attack(
    model: nn.Module, search: Search, attacks: list[tuple[Any, list[Any]]], box: tuple[Tensor, Tensor], norm: Norm
) -> None:
    """Run the attacks on a batch and offer what they find: on pixels as they are, on other inputs in units that suit them."""
    known = require("foolbox", "attack").PyTorchModel
    device = search.images.device
    if box[0].ndim == 0:
        wrapped = known(model.eval(), bounds=(float(box[0]), float(box[1])), device=device)
        for attack, tried in attacks:
            for candidates in attack(wrapped, search.images, search.truth, epsilons=tried)[1]:
                search.offer(candidates)
        return
    nearest = first_order_distances(model, search.images, search.truth, norm, box)
    for attack, tried in attacks:
        for radius in tried:
            unit, reach = (nearest, FAR) if radius is None else (torch.full_like(nearest, radius), 1.0)
            within = Moved(model, search.images, unit, box)
            wrapped = known(within.eval(), bounds=(-reach, reach), device=device)
            start = torch.zeros_like(search.images)
            size = None if radius is None else 1.0
            search.offer(within.inputs(attack(wrapped, start, search.truth, epsilons=[size])[1][0]))


def _on_margins(descent: Any) -> Any:
    """Projected gradient descent with the margin for its loss."""
    eagerpy = require("eagerpy", "attack")

    class OnMargins(descent):
        def get_loss_fn(self, model: Any, labels: Any) -> Callable[[Any], Any]:
            def loss(inputs: Any) -> Any:
                logits, truth = model(inputs).raw, labels.raw[:, None]
                others = logits.scatter(1, truth, -torch.inf).amax(1)
                return eagerpy.astensor((others - logits.gather(1, truth)[:, 0]).sum())

            return loss

    return OnMargins

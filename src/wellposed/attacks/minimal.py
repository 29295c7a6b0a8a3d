"""Attacks by foolbox: the smallest adversarial perturbation found for every input, in the Euclidean, the ℓ∞ or the ℓ1 norm."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.attacks.auto import auto_attack
from wellposed.certificates.radius import check_labels
from wellposed.errors import InputError, check, check_number, require
from wellposed.numerics.norm import norm_named


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
    batch_size: int = 250,
    seed: int = 0,
    is_fooled: Callable[[Tensor, Tensor], Tensor] | None = None,
    done: Callable[[int], None] = lambda count: None,
) -> tuple[Tensor, Tensor]:
    """Attack every input with a minimal-norm attack and with projected gradient descent at each radius.

    The minimal-norm attack is DeepFool; in ℓ1, for which it has no step, that of Pintor et al. (2021).

    Projected gradient descent goes after the margin, largest wrong logit less the right one: unlike the cross-entropy, its
    gradient does not vanish where the network is sure. Gradients are those of the implicit layers, exact. Every adversarial
    example is evaluated again, and its distance measured, outside of the attack library.

    Args:
        model: maps pixels in [0, 1] to logits; attacked in eval mode.
        x: inputs, shape (batch, ...).
        labels: true classes, shape (batch,).
        radii: in pixel units, for projected gradient descent.
        norm: ``"2"``, ``"inf"`` or ``"1"``.
        steps: its number of steps.
        restarts: how often it is run, each time from another random start.
        carlini_wagner: steps of the attack of Carlini & Wagner (2017), Euclidean and minimal-norm; zero to leave it out.
        auto: whether to run the attacks of `auto_attack` too, at each radius on the inputs that have withstood all others.
        batch_size: inputs attacked at a time.
        seed: of the random starts.
        is_fooled: judges candidates: maps inputs and true classes to booleans, shape (batch,). By default the model's
            largest logit decides; a stricter judge counts the errors of its solves.
        done: called with the number of inputs finished so far.

    Returns:
        Distances of shape (batch,), float64: zero for misclassified inputs, infinite where no attack succeeded; and the
        adversarial examples, equal to the inputs where there is none.

    Raises:
        MissingExtraError: foolbox, or the package for ``auto``, is not installed.
        InputError: pixels outside [0, 1].
    """
    foolbox = require("foolbox", "attack")
    logging.getLogger().setLevel(logging.WARNING)  # importing foolbox sets it to INFO
    norm = norm_named(norm)
    check(restarts >= 1, "restarts", restarts, "must be at least 1")
    check(carlini_wagner >= 0 and (norm == "2" or not carlini_wagner), "carlini_wagner", carlini_wagner, "is Euclidean")
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise InputError(f"x: is a {type(x).__name__}; needs a floating-point torch tensor of shape (batch, ...)")
    check_labels(labels, len(x))
    if len(x):
        with torch.no_grad():
            classes = model(x[:1]).shape[1]
        inside = 0 <= int(labels.min()) <= int(labels.max()) < classes
        check(inside, "labels", (int(labels.min()), int(labels.max())), f"must lie in 0…{classes - 1}")
        labels = labels.long()
    if len(x) and not 0.0 <= float(x.min()) <= float(x.max()) <= 1.0:
        raise InputError(f"x: pixels span [{float(x.min()):.3g}, {float(x.max()):.3g}]; they must lie in [0, 1]")
    for radius in radii:
        check_number("radii", radius, 0.0, math.inf, "must be positive and finite")
    if not len(x):
        return torch.zeros(0, dtype=torch.float64), x
    judge = is_fooled or (lambda images, truth: model(images).argmax(1) != truth)
    training = model.training
    model.eval()
    torch.manual_seed(seed)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
    known = foolbox.attacks
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
    distances, examples, count = [], [], 0
    try:
        for images, truth in zip(x.split(batch_size), labels.split(batch_size), strict=True):
            found = _Search(judge, images, truth, float(norm))
            for attack, tried in attacks:
                for candidates in attack(wrapped, images, truth, epsilons=tried)[1]:
                    found.offer(candidates)
            for radius in radii if auto else ():
                found.press(functools.partial(auto_attack, model, norm=norm), radius)
            distances.append(found.best)
            examples.append(found.examples)
            count += len(truth)
            done(count)
    finally:
        model.train(training)
    return torch.cat(distances), torch.cat(examples)


class _Search:
    """The nearest adversarial examples of a batch so far.

    Args:
        judge: see `adversarial_distances`.
        images: shape (batch, ...).
        truth: true classes.
        order: of the norm.
    """

    def __init__(self, judge: Callable[[Tensor, Tensor], Tensor], images: Tensor, truth: Tensor, order: float) -> None:
        self._judge, self._images, self._truth, self._order = judge, images, truth, order
        with torch.no_grad():
            wrong = judge(images, truth)
        self.best = torch.where(wrong, 0.0, torch.inf).double()
        self.examples = images.clone()

    def offer(self, candidates: Tensor) -> None:
        """Take every candidate that fools the model and is nearer than what is known."""
        with torch.no_grad():
            fooled = self._judge(candidates, self._truth)
        moved = (candidates.double() - self._images.double()).flatten(1)
        distance = torch.linalg.vector_norm(moved, self._order, dim=1)
        valid = ((candidates >= 0.0) & (candidates <= 1.0)).flatten(1).all(1)
        better = fooled & valid & (distance < self.best)
        self.best = torch.where(better, distance, self.best)
        self.examples[better] = candidates[better]

    def press(self, attack: Callable[..., Tensor], radius: float) -> None:
        """Run an attack with a radius on the inputs that nothing is known for within it."""
        rest = self.best > radius
        if not bool(rest.any()):
            return
        candidates = self._images.clone()
        candidates[rest] = attack(self._images[rest], self._truth[rest], radius)
        self.offer(candidates)


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

"""What a training loop of one's own needs beside torch: worst-case logits, constants to make small, projections."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from wellposed.certificates.radius import check_labels
from wellposed.constraints.base import Projected
from wellposed.errors import InputError, check, check_class, checked_options, shown
from wellposed.models.penalties import product_of_norms as product_of_norms
from wellposed.training.worst_case import worst_logits as worst_logits


@checked_options
def margin_logits(logits: Tensor, labels: Tensor, lipschitz: Tensor | float, radius: float) -> Tensor:
    """Logits in the worst case within a Euclidean radius, by a Lipschitz constant; cross-entropy takes them for logits.

    Every logit but that of the label grows by √2·L·r: no margin shrinks by more within the radius r. This is Lipschitz-margin
    training (Tsuzuku, Sato & Sugiyama 2018, Algorithm 1).

    Args:
        logits: shape (batch, classes).
        labels: classes, int64, shape (batch,).
        lipschitz: L, a constant of the logits, a number or a tensor with its graph, such as `product_of_norms`.
        radius: r, in the units that the constant is about.

    Returns:
        Shape (batch, classes).

    Raises:
        InputError: the shapes do not fit, or the radius is negative.
    """
    check(0.0 <= radius < math.inf, "radius", radius, "must be finite and not negative")
    _check_pair(logits, labels)
    value = lipschitz.detach() if isinstance(lipschitz, Tensor) else lipschitz
    number = value.numel() == 1 if isinstance(value, Tensor) else isinstance(value, int | float)
    wanted = number and 0.0 <= float(value) < math.inf
    check(wanted, "lipschitz", lipschitz, "must be one number, finite and not negative")
    others = 1.0 - nn.functional.one_hot(labels, logits.shape[1]).to(logits.dtype)
    return logits + math.sqrt(2.0) * radius * lipschitz * others


def _check_pair(logits: Tensor, labels: Tensor) -> None:
    """Refuse logits and labels that do not belong together."""
    if not isinstance(logits, Tensor) or logits.ndim != 2 or not logits.is_floating_point() or logits.shape[1] < 2:
        raise InputError(
            f"logits={shown(logits)}: needs a floating-point tensor of shape (batch, classes), two classes or more"
        )
    if isinstance(labels, Tensor) and labels.shape != logits.shape[:1]:
        raise InputError(f"labels: has shape {tuple(labels.shape)} for logits of shape {tuple(logits.shape)}")
    check_labels(labels, len(logits))
    inside = not len(labels) or 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]
    check(inside, "labels", labels, f"must lie in 0…{logits.shape[1] - 1}")


@checked_options
def certified_margins(logits: Tensor, labels: Tensor) -> Tensor:
    """The label's logit less the largest other one, shape (batch,), with its graph: over √2·L, the certified radius.

    Args:
        logits: shape (batch, classes).
        labels: classes, int64, shape (batch,).
    """
    _check_pair(logits, labels)
    truth = labels[:, None]
    others = logits.scatter(1, truth, -torch.inf).amax(1)
    return logits.gather(1, truth)[:, 0] - others


@checked_options
def projected_parts(model: nn.Module) -> Iterator[Projected]:
    """The parts of a model whose parameters are kept in a set by projecting them onto it after every step."""
    return (part for part in model.modules() if isinstance(part, Projected))


@checked_options
def project(model: nn.Module | Iterable[Projected]) -> None:
    """Move the parameters that are kept in a set by projection onto it; to be called after every step of an optimiser.

    Args:
        model: any module, most of which have no such parameters, or the parts that `projected_parts` found in it.
    """
    given = isinstance(model, nn.Module | Iterable) and not isinstance(model, Tensor | str)
    check(given, "model", model, "must be a module, or the parts that projected_parts found in it")
    for part in projected_parts(model) if isinstance(model, nn.Module) else model:
        check_class("model", part, Projected, "must be a module, or the parts that projected_parts found in it")
        part.project()

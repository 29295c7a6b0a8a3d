"""Certified Euclidean radii from margins and Lipschitz constants.

Three rules, from loosest to tightest. With L the constant of all logits and L_ij that of the margin y_i − y_j:
``paper`` min_j margin_j/(2L) (Pabbaraju, Winston & Kolter 2021, Section 5.3); ``sqrt2`` min_j margin_j/(√2·L), since
|Δ(y_i − y_j)| ≤ √2·‖Δy‖; ``pairs`` min_j margin_j/L_ij.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wellposed.errors import InputError, choices

RULES = ("paper", "sqrt2", "pairs")


def radii(
    logits: Tensor,
    labels: Tensor,
    lipschitz: float,
    pairs: Tensor | None,
    rule: str,
    logit_error: Tensor | None = None,
    elsewhere: Tensor | None = None,
    growth: Tensor | None = None,
) -> Tensor:
    """Radius around each input within which the predicted class provably stays ``labels``; zero if none is proved.

    Args:
        logits: shape (batch, classes).
        labels: true classes, shape (batch,), integers.
        lipschitz: constant L of the logits.
        pairs: constants L_ij, shape (classes, classes); needed by the rule ``pairs``.
        rule: one of `RULES`.
        logit_error: bound on the Euclidean error of the computed logits, shape (batch,). None when the logits are to be taken as
            exact.
        elsewhere: with ``growth``, a bound ``elsewhere + growth·r`` of the same for all evaluations at most r away, shape
            (batch,); None for ``logit_error``, where that holds everywhere.
        growth: shape (batch,); None for zero.

    Returns:
        Shape (batch,), float64, rounded down. Ties, NaN, infinite logits and infinite errors give zero.
    """
    choices("rule", rule, RULES)
    for name, part in (("logit_error", logit_error), ("elsewhere", elsewhere), ("growth", growth)):
        if part is not None and not bool((part >= 0).all()):
            raise InputError(f"{name}: has negative or NaN entries; a bound on an error has neither")
    if not isinstance(logits, Tensor) or logits.ndim != 2 or not logits.is_floating_point():
        raise InputError("logits: must be a floating-point tensor of shape (batch, classes)")
    check_labels(labels, len(logits))
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        raise InputError(f"labels: outside 0…{logits.shape[1] - 1}")
    exact = logits.detach().double().cpu()
    truth = labels.cpu().long()
    margins = exact.gather(1, truth[:, None]) - exact
    if logit_error is not None:
        # |Δ(y_i − y_j)| ≤ √2·‖Δy‖, once at the input and once at the perturbed input.
        there = logit_error if elsewhere is None else elsewhere
        both = logit_error.detach().double().cpu() + there.detach().double().cpu()
        margins = margins - math.sqrt(2.0) * (1.0 + 1e-15) * both[:, None]
    if rule == "pairs":
        if pairs is None:
            raise InputError("rule='pairs': this certificate has no class-pair constants; use 'sqrt2' or 'paper'")
        constants = pairs.double().cpu()[truth]
    else:
        constants = torch.full_like(exact, lipschitz * (2.0 if rule == "paper" else math.sqrt(2.0)))
    if growth is not None:
        constants = constants + math.sqrt(2.0) * (1.0 + 1e-15) * growth.detach().double().cpu()[:, None]
    others = torch.arange(logits.shape[1])[None, :] != truth[:, None]
    # Relative errors: one subtraction of float64 logits, one product, one division.
    slack = 1.0 - 2.0**-48
    size = exact.abs().amax(1, keepdim=True)
    margins = margins - 2.0**-51 * size
    # A margin that cannot change (constant zero) and is positive is safe everywhere.
    ratio = torch.where(margins > 0, margins / constants * slack, 0.0)
    radius = torch.where(others, ratio, math.inf).amin(1)
    usable = torch.isfinite(exact).all(1) & ~torch.isnan(radius)
    return torch.where(usable, radius, 0.0)


def check_labels(labels: object, count: int) -> None:
    """Refuse labels that are not one integer class for each input.

    Args:
        labels: to be checked.
        count: number of inputs.

    Raises:
        InputError: they are not a tensor of integers of shape (count,).
    """
    if not isinstance(labels, Tensor):
        raise InputError(f"labels: is a {type(labels).__name__}; needs a torch tensor of one integer class per input")
    whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if labels.shape != (count,) or not whole or labels.is_meta:
        raise InputError(
            f"labels: shape {tuple(labels.shape)}, dtype {labels.dtype} for {count} inputs; need one integer class per row"
        )

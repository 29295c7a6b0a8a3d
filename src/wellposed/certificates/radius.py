"""Certified radii from margins and Lipschitz constants.

Three rules, from loosest to tightest. With L the constant of all logits and L_ij that of the margin y_i − y_j:
``paper`` min_j margin_j/(2L) (Pabbaraju, Winston & Kolter 2021, Section 5.3); ``sqrt2`` min_j margin_j/(√2·L), since
|Δ(y_i − y_j)| ≤ √2·‖Δy‖; ``pairs`` min_j margin_j/L_ij.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wellposed.errors import InputError, choices
from wellposed.numerics.outward import enlarged, reduced, rounding_constant

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
        elsewhere: with ``growth``, a bound ``elsewhere + growth·r`` of the error for all evaluations at most r away, shape
            (batch,); None for ``logit_error``, where that holds everywhere.
        growth: shape (batch,); None for zero.

    Returns:
        Shape (batch,), float64, rounded down. Ties, NaN, infinite logits and infinite errors give zero.

    Raises:
        InputError: an argument has another shape or type, an error bound is negative, or class pairs are missing.
    """
    choices("rule", rule, RULES)
    _check_logits(logits, labels)
    _check_errors(len(logits), logit_error=logit_error, elsewhere=elsewhere, growth=growth)
    exact, truth = logits.detach().double().cpu(), labels.cpu().long()
    margins = exact.gather(1, truth[:, None]) - exact
    if logit_error is not None:
        there = logit_error if elsewhere is None else elsewhere
        margins = margins - _of_margins(logit_error.detach().double().cpu() + there.detach().double().cpu())
    constants = _constants(exact, truth, lipschitz, pairs, rule)
    if growth is not None:
        constants = constants + _of_margins(growth.detach().double().cpu())
    # Both subtractions round, relative to the largest logit at most, where what is subtracted is no larger than that.
    margins = margins - rounding_constant(4) * exact.abs().amax(1, keepdim=True)
    # A margin that cannot change (constant zero) and is positive is safe everywhere. A margin rounds once more, its constant
    # three times, and the quotient once.
    ratio = torch.where(margins > 0, reduced(margins / constants, 5), 0.0)
    others = torch.arange(logits.shape[1], device="cpu")[None, :] != truth[:, None]
    radius = torch.where(others, ratio, math.inf).amin(1)
    usable = torch.isfinite(exact).all(1) & ~torch.isnan(radius)
    return torch.where(usable, radius, 0.0)


def _of_margins(error: Tensor) -> Tensor:
    """Errors of margins from Euclidean errors of the logits, shape (batch,) to (batch, 1): |Δ(y_i − y_j)| ≤ √2·‖Δy‖."""
    return enlarged(math.sqrt(2.0) * error, 3)[:, None]


def _constants(exact: Tensor, truth: Tensor, lipschitz: float, pairs: Tensor | None, rule: str) -> Tensor:
    """Constants of the margins of every class against the true one by a rule, shape of the logits."""
    if rule != "pairs":
        return torch.full_like(exact, lipschitz * (2.0 if rule == "paper" else math.sqrt(2.0)))
    if pairs is None:
        raise InputError("rule='pairs': this certificate has no class-pair constants; use 'sqrt2' or 'paper'")
    if len(pairs) != exact.shape[1]:
        raise InputError(f"logits: have {exact.shape[1]} classes, this certificate is about {len(pairs)}")
    return pairs.double().cpu()[truth]


def _check_errors(count: int, **bounds: object) -> None:
    """Refuse bounds on errors that are negative or no numbers, or not one for each of so many inputs."""
    for name, part in bounds.items():
        if part is not None and (not isinstance(part, Tensor) or part.shape != (count,)):
            given = tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__
            raise InputError(f"{name}={given}: must be a tensor of one bound for each of {count} inputs")
        if isinstance(part, Tensor) and not bool((part >= 0).all()):
            raise InputError(f"{name}: has negative or NaN entries; a bound on an error has neither")


def _check_logits(logits: object, labels: Tensor) -> None:
    """Refuse logits of another type or shape, and labels that are no classes of theirs."""
    if not isinstance(logits, Tensor) or logits.ndim != 2 or not logits.is_floating_point():
        raise InputError("logits: must be a floating-point tensor of shape (batch, classes)")
    check_labels(labels, len(logits))
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        raise InputError(f"labels: outside 0…{logits.shape[1] - 1}")


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

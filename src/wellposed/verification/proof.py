"""What multipliers of the semidefinite relaxation prove, by one verified Cholesky factorisation."""

from __future__ import annotations

import math

import torch

from wellposed.numerics.outward import enlarged, next_up, rounding_constant
from wellposed.numerics.verified import is_positive_semidefinite
from wellposed.verification.dual import Dual
from wellposed.verification.relaxation import Multipliers, Relaxed

_DIVISION = 2.0**-52  # what dividing a form by its width can change, relative to the width
_SHRINKINGS = 24  # of the bound, until it is proved


def proved(problem: Relaxed, multipliers: Multipliers) -> float:
    """A number that the objective provably is not below, rounding and the errors of the forms included; −∞ if none was found.

    Args:
        problem: the forms.
        multipliers: from anywhere.
    """
    dual = Dual(problem)
    theta = multipliers.values.clone()
    if not bool(torch.isfinite(theta).all()) or bool((theta[dual.signed] < 0.0).any()):
        return -math.inf
    lost = _lost(problem, multipliers)
    theta[0] = abs(multipliers.bound)
    weights = dual.combination(theta, sizes=True)
    forms = dual.forms.abs()
    terms = forms.t() @ (weights @ forms) + dual.objective.abs()
    terms.diagonal()[dual.inputs] += float(theta[1])
    rounding = rounding_constant(3 * len(forms) + 16)
    error = rounding * float(terms.sum(1).max())
    slack = 4.0 * error + 1e-9 * abs(multipliers.bound)
    for _ in range(_SHRINKINGS):
        theta[0] = multipliers.bound - slack
        found = dual.matrix(theta).numpy()
        if is_positive_semidefinite(found, error + rounding * slack):  # t is a term of the last entry
            return -next_up(lost - float(theta[0]))
        slack *= 4.0
    return -math.inf


def _lost(problem: Relaxed, multipliers: Multipliers) -> float:
    """How much less than t the objective may be, as the true forms differ from the stored ones."""
    p, s, theta = len(problem.lower), len(problem.widths), multipliers.values
    rho, pi, tau, eta = theta[2 : 2 + 4 * p].reshape(4, p).unbind(0)
    omega = theta[2 + 4 * p :]
    # In units of the widths, z lies in [0, 1] and the stored y within its relative error of [0, 1].
    off, range_off = problem.errors / -problem.lower + _DIVISION, problem.range_errors / problem.widths + _DIVISION
    units = pi * off * (1.0 + off) + tau.abs() * off + eta * (off + _DIVISION) + rho * 2.0 * _DIVISION
    total = float(units.sum() + (omega * range_off * (1.0 + range_off)).sum()) + float(problem.objective_error)
    return enlarged(total, p + s + 12)  # nine operations for each unit, the sums, and two more

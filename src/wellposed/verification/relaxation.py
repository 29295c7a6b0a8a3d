"""A semidefinite relaxation of a ReLU network over an ellipsoid of inputs, with lower bounds that are proved.

Per unit with pre-activation v in [l, u], l < 0 < u, the state z and its complement y = z − v satisfy z(u − z) ≥ 0, y(−l − y) ≥ 0,
zy = 0 and the triangle z/u + y/(−l) ≤ 1: these imply every product of the linear constraints on z, y and v. Multipliers for
them, for the ball of inputs and for ranges of further linear forms, make a matrix F; where it is positive semidefinite, the
objective is at least t on the whole region (the Lagrangian dual of Shor's relaxation; Chen et al. 2021 solve the primal, with
fewer constraints, as one program of the size of the input). With a metric in the place of ranges it is the bound of
`wellposed.bounds.diagonal_metric`.

Multipliers come from an interior-point method that proves nothing; `proved` does, by one verified Cholesky factorisation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wellposed.numerics.outward import rounding_constant
from wellposed.numerics.verified import is_positive_semidefinite

_CENTRED = 0.6  # Newton decrement at which a point counts as near the central path
_SHARE = 0.9  # of the way to the optimum, as the tangent of the central path has it
_LARGEST_STEPS = 60
_DIVISION = 2.0**-52  # what dividing a form by its width can change, relative to the width
_TOLERANCE = 1e-4  # relative gap at which to stop, where the sign of the bound stays open


@dataclass(frozen=True, eq=False)
class Relaxed:
    """Linear forms of w = (z, ξ, 1): p uncertain states, q directions of the input with ‖ξ‖ ≤ 1, and a constant.

    All tensors are float64. The true forms may differ from the stored ones by the errors, whatever the input.

    Attributes:
        preactivations: v of the uncertain units, shape (p, p + q + 1).
        lower: l < 0, shape (p,).
        upper: u > 0, shape (p,).
        errors: of the pre-activations, shape (p,).
        ranges: further forms, known to lie between 0 and a width, shape (s, p + q + 1).
        widths: shape (s,).
        range_errors: of those forms, shape (s,).
        objective: the form to bound from below, shape (p + q + 1,).
        objective_error: of that form.
        metric: λ > 0 to start from, for the uncertain units, shape (p,); this and what follows are guesses.
        range_metric: multipliers of the ranges that go with it, in units of the widths, shape (s,).
        state: z at some input, shape (p,).
        complement: y there, shape (p,).
        pull: P, shape (n, q): inputs of least norm with the directions ξ are gram-root images of UᵀPξ, see `Region.lift`.
    """

    preactivations: Tensor
    lower: Tensor
    upper: Tensor
    errors: Tensor
    ranges: Tensor
    widths: Tensor
    range_errors: Tensor
    objective: Tensor
    objective_error: float
    metric: Tensor
    range_metric: Tensor
    state: Tensor
    complement: Tensor
    pull: Tensor


@dataclass(frozen=True, eq=False)
class Multipliers:
    """A point of the dual, and what it says of the primal.

    Attributes:
        values: t, κ of the ball, then per unit ρ of z(u − z), π of y(−l − y), τ of zy and η of the triangle, then ω per range.
        bound: t: the objective is at least this, up to rounding.
        reachable: no multipliers of this relaxation prove more than about this.
        direction: the ξ of the relaxation's optimum, shape (q,): where to look for a counterexample.
        conflict: what the mean of the relaxation's optimum pays for zy ≠ 0, per unit, shape (p,).
        squares: second moments of ξ there, shape (q, q).
    """

    values: Tensor
    bound: float
    reachable: float
    direction: Tensor
    conflict: Tensor
    squares: Tensor


class _Dual:
    """F(θ) = F₀ + Σθ_i F_i as a combination of products of a few linear forms."""

    def __init__(self, problem: Relaxed) -> None:
        p, s = len(problem.lower), len(problem.widths)
        size = problem.objective.numel()
        self.problem, self.p, self.s, self.size, self.q = problem, p, s, size, size - p - 1
        states = torch.eye(size, dtype=torch.float64)[:p]
        constant = torch.zeros(1, size, dtype=torch.float64)
        constant[0, -1] = 1.0
        # Forms in units of their widths: z/u, y/(−l), range/width.
        self.u, self.r, self.w = problem.upper, -problem.lower, problem.widths
        self.forms = torch.cat(
            [
                states / self.u[:, None],
                (states - problem.preactivations) / self.r[:, None],
                problem.ranges / self.w[:, None],
                constant,
            ]
        )
        z, y, x = torch.arange(p), torch.arange(p, 2 * p), torch.arange(2 * p, 2 * p + s)
        one = torch.tensor([2 * p + s])
        # Products of two forms each; the last column of the map below is that of the identity on ξ.
        self.first = torch.cat([one, z, y, z, y, z, x, x])
        self.second = torch.cat([one, z, y, one.expand(p), one.expand(p), y, x, one.expand(s)])
        count = 2 + 4 * p + s
        products = len(self.first)
        chart = torch.zeros(count, products + 1, dtype=torch.float64)
        k = torch.arange(p)
        at = {name: 1 + i * p + k for i, name in enumerate(("zz", "yy", "z", "y", "zy"))}
        chart[0, 0] = -1.0
        chart[1, 0], chart[1, -1] = -1.0, 1.0
        chart[2 + k, at["zz"]], chart[2 + k, at["z"]] = 1.0, -1.0
        chart[2 + p + k, at["yy"]], chart[2 + p + k, at["y"]] = 1.0, -1.0
        chart[2 + 2 * p + k, at["zy"]] = -1.0
        chart[2 + 3 * p + k, 0], chart[2 + 3 * p + k, at["z"]], chart[2 + 3 * p + k, at["y"]] = -1.0, 1.0, 1.0
        j = torch.arange(s)
        chart[2 + 4 * p + j, 1 + 5 * p + j], chart[2 + 4 * p + j, 1 + 5 * p + s + j] = 1.0, -1.0
        self.chart = chart
        self.signed = torch.ones(count, dtype=torch.bool)  # multipliers that must be positive
        self.signed[0] = False
        self.signed[2 + 2 * p : 2 + 3 * p] = False
        self.parameter = size + int(self.signed.sum())  # of the barrier
        offset = 0.5 * torch.outer(problem.objective, constant[0])
        self.objective = offset + offset.t()
        self.inputs = slice(p, size - 1)

    def combination(self, theta: Tensor, *, sizes: bool = False) -> Tensor:
        """Coefficients of the products of forms, as a symmetric matrix over the forms; or the sums of their terms' sizes."""
        weights = theta.abs() @ self.chart.abs() if sizes else theta @ self.chart
        rows = len(self.forms)
        grid = torch.zeros(rows, rows, dtype=torch.float64)
        grid[self.first, self.second] = weights[:-1]
        return 0.5 * (grid + grid.t())

    def matrix(self, theta: Tensor) -> Tensor:
        """F."""
        found = self.objective + self.forms.t() @ (self.combination(theta) @ self.forms)
        found.diagonal()[self.inputs] += theta[1]
        return found

    def start(self) -> Tensor:
        """A strictly feasible point: the bound in a diagonal metric λ, at the best of a few scales, moved inside.

        The constraint Δz(Δv − Δz) ≥ 0 of that bound is y₀z + z₀y − zy ≥ 0 around (z₀, y₀), whose linear terms are at most those
        of z(u − z) and y(−l − y).

        Raises:
            ArithmeticError: none was found, for lack of digits.
        """
        problem, p = self.problem, self.p
        u, r = self.u, self.r
        metric, z, y = problem.metric, problem.state, problem.complement
        shape = torch.zeros(2 + 4 * p + self.s, dtype=torch.float64)
        shape[2 : 2 + p] = metric * y * u
        shape[2 + p : 2 + 2 * p] = metric * z * r
        shape[2 + 2 * p : 2 + 3 * p] = -metric * u * r
        shape[2 + 4 * p :] = problem.range_metric
        least = 1e-3 * float(shape[2:].abs().amax()) if p + self.s else 0.0
        shape[2:][self.signed[2:]] += least if least > 0.0 else 1.0
        size = float((problem.objective[:p].abs() * u).sum() + problem.objective[self.inputs].norm())
        size = max(size, 1e-9 * (1.0 + abs(float(problem.objective[-1]))), 1e-150)
        best, highest = None, -math.inf

        def at(scale: float, ball: float) -> None:
            nonlocal best, highest
            theta = shape * scale
            theta[1] = ball
            found = self.highest(theta)[0]
            if found > highest:
                best, highest = (scale, ball), found

        def scan() -> None:
            reference = size / max(float(shape[2:].abs().amax()), 1e-300) if p + self.s else 1.0
            for scale in (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0):
                for ball in (1e-3, 1e-2, 1e-1, 1.0):
                    at(scale * reference, ball * size)

        scan()
        if best is None:  # without the metric F is positive definite at every scale
            shape = self.signed.double()
            scan()
        if best is None:
            raise ArithmeticError("the numbers of this relaxation are too far apart for float64")
        for factor in (2.0, 1.4):
            scale, ball = best
            for change in ((factor, 1.0), (1.0 / factor, 1.0), (1.0, factor), (1.0, 1.0 / factor)):
                at(scale * change[0], ball * change[1])
        assert best is not None
        theta = shape * best[0]
        theta[1] = best[1]
        theta[0] = highest
        return theta

    def highest(self, theta: Tensor) -> tuple[float, float]:
        """The largest t for the other multipliers, and log det of F without its last row; (−∞, 0) outside."""
        rest = theta.clone()
        rest[0] = 0.0
        found = self.matrix(rest)
        factor, failed = torch.linalg.cholesky_ex(found[:-1, :-1])
        if int(failed):
            return -math.inf, 0.0
        reach = torch.linalg.solve_triangular(factor, found[:-1, -1:], upper=False)
        return float(found[-1, -1]) - float(reach.square().sum()), 2.0 * float(factor.diagonal().log().sum())

    def value(self, theta: Tensor, weight: float) -> float:
        """−weight·t plus the barrier, at the t that is best for the other multipliers; infinite outside."""
        positive = theta[self.signed]
        if bool((positive <= 0.0).any()):
            return math.inf
        highest, determinant = self.highest(theta)
        return -weight * highest - determinant - float(positive.log().sum())

    def derivatives(self, theta: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
        """Gradient of the barrier, factor of its scaled Hessian with the scale, and F⁻¹; None at the limit of float64.

        Each F_i is a few products of forms, so that traces of their products are products of entries of one table.
        """
        lower, failed = torch.linalg.cholesky_ex(self.matrix(theta))
        if int(failed):
            return None
        inverse = torch.cholesky_inverse(lower)
        moved = self.forms @ inverse
        table = moved @ self.forms.t()
        reach = moved[:, self.inputs]
        reached = reach @ reach.t()
        block = inverse[self.inputs, self.inputs]
        first, second = self.first, self.second
        products = len(first)
        traces = torch.empty(products + 1, dtype=torch.float64)
        traces[:-1] = table[first, second]
        traces[-1] = block.diagonal().sum()
        by_first, by_second = table[first], table[second]
        hessian = torch.empty(products + 1, products + 1, dtype=torch.float64)
        hessian[:-1, :-1] = 0.5 * (
            by_first[:, first] * by_second[:, second] + by_first[:, second] * by_second[:, first]
        )
        hessian[:-1, -1] = hessian[-1, :-1] = reached[first, second]
        hessian[-1, -1] = block.square().sum()
        gradient = -(self.chart @ traces)
        full = self.chart @ hessian @ self.chart.t()
        inverse_theta = 1.0 / theta[self.signed]
        gradient[self.signed] -= inverse_theta
        full.diagonal()[self.signed] += inverse_theta.square()
        scale = full.diagonal().clamp_min(1e-300).rsqrt()
        scaled = scale[:, None] * full * scale
        factor, failed = torch.linalg.cholesky_ex(scaled)
        if int(failed):
            scaled.diagonal().add_(1e-9)
            factor, failed = torch.linalg.cholesky_ex(scaled)
        return None if int(failed) else (gradient, factor, scale, inverse)


def minimise(
    problem: Relaxed,
    *,
    target: float | None = None,
    tolerance: float = _TOLERANCE,
    give_up: bool = False,
    initial: Multipliers | None = None,
) -> Multipliers:
    """The largest lower bound of the objective that the relaxation gives.

    Args:
        problem: the forms.
        target: stop as soon as the bound is above this; None to go on to the tolerance.
        tolerance: relative to the size of the bound.
        give_up: stop too as soon as the bound cannot come above the target.
        initial: where to start, the solution of a problem of the same shape.

    Raises:
        ArithmeticError: the numbers are too far apart for float64.
    """
    dual = _Dual(problem)
    theta = dual.start() if initial is None else initial.values.clone()
    highest = dual.highest(theta)[0]
    if not math.isfinite(highest):
        theta = dual.start()
        highest = float(theta[0])
    somewhere = float(problem.objective[: dual.p] @ problem.state + problem.objective[-1])  # in the region
    away = somewhere if initial is None else min(somewhere, initial.reachable)
    weight = dual.parameter / max(away - highest, 1e-3 * abs(somewhere - highest), 1e-12)
    reachable = math.inf
    inverse = None
    for _ in range(_LARGEST_STEPS):
        # Along t the barrier has its least value here; holding that on to every step takes away the stiffest direction.
        theta[0] = highest - 1.0 / weight
        found = dual.derivatives(theta)
        if found is None:
            break
        gradient, factor, scale, inverse = found
        whole = gradient.clone()
        whole[0] -= weight
        direction = -scale * torch.cholesky_solve((scale * whole)[:, None], factor)[:, 0]
        decrement = max(-float(whole @ direction), 0.0) ** 0.5
        if not math.isfinite(decrement) or (target is not None and highest > target):
            break
        if decrement < _CENTRED:
            gap = (dual.parameter + 2.0 * dual.parameter**0.5) / weight
            reachable = min(reachable, highest + gap)
            if (give_up and target is not None and reachable < target) or gap <= tolerance * (abs(highest) + 1e-12):
                break
            unit = torch.zeros_like(theta)
            unit[0] = 1.0
            tangent = scale * torch.cholesky_solve((scale * unit)[:, None], factor)[:, 0]
            share = _SHARE
            while share > 0.1:
                trial = theta + share * weight * tangent
                if math.isfinite(dual.value(trial, 0.0)):
                    break
                share *= 0.7
            if share > 0.1:
                theta, weight = trial, weight / (1.0 - share)
            else:
                weight *= 2.0
            highest = dual.highest(theta)[0]
            continue
        before, length = dual.value(theta, weight), 1.0
        while length > 1e-8:
            trial = theta + length * direction
            if dual.value(trial, weight) < before - 0.05 * length * decrement**2:
                break
            length *= 0.6
        else:
            break
        theta = trial
        highest = dual.highest(theta)[0]
    if inverse is None:  # nothing to be seen of the primal: the middle of the region
        inverse = torch.zeros(dual.size, dtype=torch.float64).index_fill(0, torch.tensor([dual.size - 1]), 1.0).diag()
    moments = inverse / inverse[-1, -1]
    mean = dual.forms[: 2 * dual.p] @ moments[:, -1]
    tau = theta[2 + 2 * dual.p : 2 + 3 * dual.p]
    conflict = tau.abs() * mean[: dual.p].clamp_min(0.0) * mean[dual.p :].clamp_min(0.0)
    return Multipliers(theta, highest, reachable, moments[dual.inputs, -1], conflict, moments[dual.inputs, dual.inputs])


def proved(problem: Relaxed, multipliers: Multipliers) -> float:
    """A number that the objective provably is not below, rounding and the errors of the forms included; −∞ if none was found.

    Args:
        problem: the forms.
        multipliers: from anywhere.
    """
    dual = _Dual(problem)
    theta = multipliers.values.clone()
    if not bool(torch.isfinite(theta).all()) or bool((theta[dual.signed] < 0.0).any()):
        return -math.inf
    p = dual.p
    rho, pi, tau, eta = theta[2 : 2 + 4 * p].reshape(4, p).unbind(0)
    omega = theta[2 + 4 * p :]
    # In units of the widths, z lies in [0, 1] and the stored y within its relative error of [0, 1].
    off, range_off = problem.errors / dual.r + _DIVISION, problem.range_errors / dual.w + _DIVISION
    lost = float(
        (pi * off * (1.0 + off) + tau.abs() * off + eta * (off + _DIVISION) + rho * 2.0 * _DIVISION).sum()
        + (omega * range_off * (1.0 + range_off)).sum()
    )
    lost = (lost + problem.objective_error) * (1.0 + 1e-10)
    theta[0] = abs(multipliers.bound)
    weights = dual.combination(theta, sizes=True)
    forms = dual.forms.abs()
    terms = forms.t() @ (weights @ forms) + dual.objective.abs()
    terms.diagonal()[dual.inputs] += float(theta[1])
    rounding = rounding_constant(3 * len(forms) + 16)
    error = rounding * float(terms.sum(1).max())
    slack = 4.0 * error + 1e-9 * abs(multipliers.bound)
    for _ in range(24):
        theta[0] = multipliers.bound - slack
        found = dual.matrix(theta).numpy()
        if is_positive_semidefinite(found, error + rounding * slack):  # t is a term of the last entry
            return float(np.nextafter(float(theta[0]) - lost, -math.inf)) - 1e-15 * (abs(float(theta[0])) + lost)
        slack *= 4.0
    return -math.inf

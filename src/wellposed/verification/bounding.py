"""Bounds of margins and pre-activations on a region by the semidefinite relaxation, for balls and for boxes.

A box is covered by ellipsoids Σ d_i x_i² ≤ Σ d_i w_i², and every d > 0 gives a bound. Starting from the d that is best for the
linear function at the centre, each round moves d towards where the relaxation's optimum has E[x_i²] = w_i², which is where the
ellipsoid cannot be improved.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from wellposed.verification.attack import descend
from wellposed.verification.central_path import minimise
from wellposed.verification.proof import proved
from wellposed.verification.question import Question, Target
from wellposed.verification.reduction import Bounds, Reduction
from wellposed.verification.region import Region
from wellposed.verification.relaxation import Multipliers
from wellposed.verification.secants import refine

_ROUNDS = 6  # of the weights of pixels
_HOPELESS = 0.05  # share of what is missing that a round must gain
_ROUGH = 0.1  # tolerance of a round that is only meant to move the weights
_LOOSE = 0.03  # tolerance of bounds that are only meant to shrink others


@dataclass(frozen=True, eq=False, repr=False)
class Outcome:
    """What the relaxation says of one target.

    Attributes:
        proved: whether the target is proved not to win.
        counterexample: a surely misclassified input, or None.
        bound: of the margin; not proved.
        split: the unit whose sign the relaxation's optimum is least sure of, or None where no unit is open.
    """

    proved: bool
    counterexample: Tensor | None = None
    bound: float = math.inf
    split: int | None = None

    def __repr__(self) -> str:
        return f"Outcome(proved={self.proved}, bound={self.bound:.6g}, split={self.split})"


class Bounding:
    """The relaxation for one question; remembers the ellipsoids that served each target."""

    def __init__(self, question: Question, bounds: Bounds, metric: Tensor) -> None:
        self._question, self._metric = question, metric
        self.bounds = bounds
        self._shares: dict[int, Tensor] = {}
        self._reduced: Reduction | None = None  # that of the last decisions

    def bound(self, target: Target, decisions: dict[int, int]) -> Outcome:
        """Try to prove one target, in the part of the region where some units have given signs."""
        try:
            return self._bound(target, decisions)
        except ArithmeticError:  # float64 does not do for numbers so far apart
            return Outcome(False)

    def _bound(self, target: Target, decisions: dict[int, int]) -> Outcome:
        question = self._question
        region = question.region
        shares = self._ellipsoid(target)
        rounds = 1 if region.widths is None else _ROUNDS
        reached = -math.inf
        for round_ in range(rounds):
            reduction = self._reduction(decisions, shares)
            constant = target.constant - question.allowance
            problem = reduction.margin(target.row, constant, target.metric, target.error)
            goal = 1e-9 * (1.0 + abs(float(problem.objective[-1])))
            last = round_ == rounds - 1
            multipliers = minimise(
                problem, target=goal, tolerance=1e-3 if rounds == 1 else _LOOSE,
                give_up=math.inf if last else _ROUGH,
            )  # fmt: skip
            if multipliers.bound > 0.0 and proved(problem, multipliers) > 0.0:
                self._remember(target, shares)
                return Outcome(True)
            lift = region.lift(question.network, problem.pull, shares)
            if round_ == 0:
                found = self._search(target, lift @ multipliers.direction)
                if found is not None:
                    return Outcome(False, found)
            gained, reached = multipliers.bound - reached, max(reached, multipliers.bound)
            if last or gained < -_HOPELESS * multipliers.bound:
                break
            shares = self._reweighted(shares, lift, multipliers)
        self._remember(target, shares)
        split = int(reduction.open[int(multipliers.conflict.argmax())]) if len(reduction.open) else None
        return Outcome(False, None, multipliers.bound, split)

    def tighten(self, target: Target, deadline: float) -> None:
        """Bound the uncertain units by the relaxation itself, those nearest to being decided first."""
        question = self._question
        lower, upper = self.bounds.lower.clone(), self.bounds.upper.clone()
        reduction = self._reduction({}, self._ellipsoid(target))
        opened = torch.nonzero(self.bounds.uncertain())[:, 0].tolist()
        for unit in sorted(opened, key=lambda unit: min(-float(lower[unit]), float(upper[unit]))):
            if time.monotonic() > deadline:
                break
            for sign in (1.0, -1.0):
                try:
                    problem = reduction.preactivation(unit, sign, self._metric)
                    found = proved(problem, minimise(problem, tolerance=_LOOSE))
                except ArithmeticError:
                    continue
                if sign > 0.0:
                    lower[unit] = max(float(lower[unit]), found)
                else:
                    upper[unit] = min(float(upper[unit]), -found)
        self.bounds = refine(question.network, question.centre, question.region, Bounds(lower, upper))

    def _reduction(self, decisions: dict[int, int], shares: Tensor | None) -> Reduction:
        """The forms; what does not depend on the ellipsoid serves all targets and rounds."""
        known, question = self._reduced, self._question
        if known is None or known.bounds is not self.bounds or known.decisions != decisions:
            known = Reduction(question.network, question.centre, question.region, self.bounds, decisions)
            self._reduced = known
        return known.within(shares)

    @cached_property
    def _gradients(self) -> Tensor:
        """Sizes of the gradients of all margins at the centre, shape (classes, inputs)."""
        network, centre = self._question.network, self._question.centre
        active = (centre.preactivation > 0.0).double()
        own = torch.eye(len(active), dtype=torch.float64, device="cpu") - active[:, None] * network.matrix
        through = torch.linalg.solve_ex(own.t(), self._question.margins.rows.t())[0]
        return ((through.t() * active) @ network.weight).abs()

    def _search(self, target: Target, change: Tensor) -> Tensor | None:
        """A counterexample near the optimum of the relaxation."""
        question = self._question
        region, place = Region.stack([question.region]), torch.zeros(1, dtype=torch.long, device="cpu")
        start = region.project(region.centre + change)
        constant = torch.tensor([target.constant], dtype=torch.float64, device="cpu")
        found = descend(question.network, region, start, target.row[None], constant, place, steps=6)
        return question.counterexample(*found)

    def _ellipsoid(self, target: Target) -> Tensor | None:
        """d, shape (inputs,); None for balls."""
        question = self._question
        widths = question.region.widths
        if widths is None:
            return None
        known = self._shares.get(target.other)
        if known is not None:
            return known
        gradient = self._gradients[target.other]
        # Not too far from equal: other inputs of the region have other gradients.
        return (gradient + 0.3 * float(gradient.mean()) + 1e-300) / self._widths(widths)

    def _widths(self, widths: Tensor) -> Tensor:
        return widths.clamp_min(1e-9 * self._question.radius)

    def _reweighted(self, shares: Tensor | None, lift: Tensor, multipliers: Multipliers) -> Tensor | None:
        """d·(E[x²]/w²)^¼: damped, as the optimum moves with d."""
        widths = self._question.region.widths
        if shares is None or widths is None:
            return None
        square = ((lift @ multipliers.squares) * lift).sum(1).clamp_min(0.0)
        found = shares * (square.sqrt() / self._widths(widths)).clamp(1e-4, 1e4).sqrt()
        return found.clamp_min(1e-4 * float(found.amax()))

    def _remember(self, target: Target, shares: Tensor | None) -> None:
        if shares is not None:
            self._shares[target.other] = shares

"""Bounds of margins and pre-activations on a region by the semidefinite relaxation, for balls and for boxes.

A box is covered by ellipsoids Σ d_i x_i² ≤ Σ d_i w_i², and every d > 0 gives a bound. Starting from the d that is best for the
linear function at the centre, each round moves d towards where the relaxation's optimum has E[x_i²] = w_i², which is where the
ellipsoid cannot be improved.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from wellposed.verification.attack import descend
from wellposed.verification.central_path import minimise
from wellposed.verification.proof import proved
from wellposed.verification.question import Question, Target
from wellposed.verification.reduction import Bounds, Reduction
from wellposed.verification.region import Region
from wellposed.verification.relaxation import Multipliers, Relaxed
from wellposed.verification.secants import refine

T = TypeVar("T")

_ENTRIES = 2**17  # of the equations of a step, for all problems that are solved together
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


@dataclass(eq=False)
class _Attempt:
    """A target in a part of the region, within an ellipsoid that is improved."""

    target: Target
    reduction: Reduction
    shares: Tensor | None
    reached: float = -math.inf
    outcome: Outcome = Outcome(False)

    def problem(self, allowance: float) -> Relaxed:
        """The relaxation of the margin, less what must be left over."""
        target = self.target
        return self.reduction.within(self.shares).margin(
            target.row, target.constant - allowance, target.metric, target.error
        )


class Bounding:
    """The relaxation for one question; remembers the ellipsoids that served each target."""

    def __init__(self, question: Question, bounds: Bounds, metric: Tensor) -> None:
        self._question, self._metric = question, metric
        self.bounds = bounds
        self._shares: dict[int, Tensor] = {}
        self._reduced: Reduction | None = None  # that of the last decisions

    def groups(self, items: Sequence[T]) -> Iterator[Sequence[T]]:
        """The items by as many as the relaxation is best asked about together."""
        multipliers = 2 + 4 * int(self.bounds.uncertain().sum())
        size = max(1, _ENTRIES // multipliers**2)
        return (items[start : start + size] for start in range(0, len(items), size))

    def bound(self, asked: Sequence[tuple[Target, dict[int, int]]]) -> list[Outcome]:
        """Try to prove targets, each in the part of the region where some units, equally many for all, have given signs.

        A counterexample to one target ends the search for all that are not proved before.
        """
        attempts = [_Attempt(target, self._reduction(signs), self._ellipsoid(target)) for target, signs in asked]
        left, rounds = attempts, 1 if self._question.region.widths is None else _ROUNDS
        for round_ in range(rounds):
            left = self._round(left, first=round_ == 0, last=round_ == rounds - 1)
            if not left:
                break
        for attempt in attempts:
            if attempt.shares is not None:
                self._shares[attempt.target.other] = attempt.shares
        return [attempt.outcome for attempt in attempts]

    def _round(self, attempts: list[_Attempt], *, first: bool, last: bool) -> list[_Attempt]:
        """Bounds within the present ellipsoids; the attempts that are to go on within others."""
        question = self._question
        region = question.region
        tried, problems = [], []
        for attempt in attempts:
            with suppress(ArithmeticError):  # float64 does not do for numbers so far apart
                problems.append(attempt.problem(question.allowance))
                tried.append(attempt)
        found = minimise(
            problems,
            targets=[1e-9 * (1.0 + abs(float(problem.objective[-1]))) for problem in problems],
            tolerance=1e-3 if region.widths is None else _LOOSE, give_up=math.inf if last else _ROUGH,
        )  # fmt: skip
        opened, lifts = [], []
        for attempt, problem, multipliers in zip(tried, problems, found, strict=True):
            if multipliers is None:
                continue
            if multipliers.bound > 0.0 and proved(problem, multipliers) > 0.0:
                attempt.outcome = Outcome(True)
                continue
            units = attempt.reduction.open
            split = int(units[int(multipliers.conflict.argmax())]) if len(units) else None
            attempt.outcome = Outcome(False, None, multipliers.bound, split)
            opened.append((attempt, multipliers))
            lifts.append(region.lift(question.network, problem.pull, attempt.shares))
        if first and opened:
            changes = [lift @ multipliers.direction for lift, (_, multipliers) in zip(lifts, opened, strict=True)]
            wrong = self._search([attempt.target for attempt, _ in opened], torch.stack(changes))
            if wrong is not None:
                for attempt, _ in opened:
                    attempt.outcome = Outcome(False, wrong)
                return []
        left = []
        for (attempt, multipliers), lift in zip(opened, lifts, strict=True):
            gained, attempt.reached = multipliers.bound - attempt.reached, max(attempt.reached, multipliers.bound)
            if not last and gained >= -_HOPELESS * multipliers.bound:
                attempt.shares = self._reweighted(attempt.shares, lift, multipliers)
                left.append(attempt)
        return left

    def tighten(self, target: Target, deadline: float) -> None:
        """Bound uncertain units by the relaxation itself, those nearest to being decided first, until none of a group is."""
        question = self._question
        lower, upper = self.bounds.lower.clone(), self.bounds.upper.clone()
        reduction = self._reduction({}).within(self._ellipsoid(target))
        opened = torch.nonzero(self.bounds.uncertain())[:, 0].tolist()
        opened.sort(key=lambda unit: min(-float(lower[unit]), float(upper[unit])))
        for asked in self.groups([(unit, sign) for unit in opened for sign in (1.0, -1.0)]):
            if time.monotonic() > deadline:
                break
            tried, problems = [], []
            for unit, sign in asked:
                with suppress(ArithmeticError):
                    problems.append(reduction.preactivation(unit, sign, self._metric))
                    tried.append((unit, sign))
            found = minimise(problems, targets=[0.0] * len(problems), tolerance=_LOOSE, give_up=_ROUGH)
            decided = False
            for (unit, sign), problem, multipliers in zip(tried, problems, found, strict=True):
                least = -math.inf if multipliers is None else proved(problem, multipliers)
                decided |= least > 0.0
                if sign > 0.0:
                    lower[unit] = max(float(lower[unit]), least)
                else:
                    upper[unit] = min(float(upper[unit]), -least)
            if not decided:
                break
        self.bounds = refine(question.network, question.centre, question.region, Bounds(lower, upper))

    def _reduction(self, decisions: dict[int, int]) -> Reduction:
        """The forms, which serve all targets and ellipsoids."""
        known, question = self._reduced, self._question
        if known is None or known.bounds is not self.bounds or known.decisions != decisions:
            known = Reduction(question.network, question.centre, question.region, self.bounds, decisions)
            self._reduced = known
        return known

    @cached_property
    def _gradients(self) -> Tensor:
        """Sizes of the gradients of all margins at the centre, shape (classes, inputs)."""
        network, centre = self._question.network, self._question.centre
        active = (centre.preactivation > 0.0).double()
        own = torch.eye(len(active), dtype=torch.float64, device="cpu") - active[:, None] * network.matrix
        through = torch.linalg.solve_ex(own.t(), self._question.margins.rows.t())[0]
        return ((through.t() * active) @ network.weight).abs()

    def _search(self, targets: Sequence[Target], changes: Tensor) -> Tensor | None:
        """A counterexample near the optima of the relaxation, shape (targets, inputs)."""
        question, count = self._question, len(targets)
        region, places = Region.stack([question.region] * count), torch.zeros(count, dtype=torch.long, device="cpu")
        rows = torch.stack([target.row for target in targets])
        constants = rows.new_tensor([target.constant for target in targets])
        start = region.project(region.centre + changes)
        return question.counterexample(*descend(question.network, region, start, rows, constants, places, steps=6))

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

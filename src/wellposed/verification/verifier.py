"""Verification of single inputs, from the cheapest method to a complete one."""

from __future__ import annotations

import heapq
import itertools
import math
import time
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from wellposed.certificates.affine_network import AffineNetwork, Centre, affine_network
from wellposed.certificates.diagonal_metric import AffineBlock
from wellposed.errors import CertificateError, InputError, check, choices
from wellposed.verification.attack import descend, surely_wrong
from wellposed.verification.reduction import Bounds, Reduction
from wellposed.verification.region import Region
from wellposed.verification.relaxation import Multipliers, Relaxed, minimise, proved
from wellposed.verification.secants import margin_change, refine

LADDER = ("global", "secants", "relaxation", "tightened", "branching")
_BOX_ROUNDS = 6  # of the weights of pixels
_LOOSE = 0.03  # tolerance of bounds that are only meant to shrink others


@dataclass(frozen=True)
class Verdict:
    """What is known of one input and region.

    Attributes:
        status: ``"certified"``, ``"falsified"``, ``"misclassified"`` or ``"unknown"``.
        method: the step of the ladder that decided, or the last one that was tried.
        counterexample: an input of the region, shape of the input, that is surely misclassified.
        seconds: spent.
    """

    status: str
    method: str
    counterexample: Tensor | None = field(default=None, repr=False)
    seconds: float = 0.0


@dataclass(frozen=True)
class _Target:
    """A class that must not win: its margin row·z + constant."""

    other: int
    row: Tensor
    constant: float
    error: float
    metric: Tensor


class Verifier:
    """Verifies inputs of one model; what depends on the weights alone is computed once.

    Args:
        model: normalisation, flattening, one ReLU layer on flat inputs and a linear head.
        valid: range of the pixels that boxes are clipped to; None for any numbers.

    Raises:
        CertificateError: the model is of another kind.
    """

    def __init__(self, model: nn.Module | AffineNetwork, *, valid: tuple[float, float] | None = (0.0, 1.0)) -> None:
        self.network = model if isinstance(model, AffineNetwork) else affine_network(model)
        self._valid = valid
        metric = self.network.layer.guarantee().diagonal_metric()
        size = len(self.network.matrix)
        self._metric = torch.ones(size, dtype=torch.float64) if metric is None else metric.detach().double().cpu()
        self._block = AffineBlock(self.network.matrix, self.network.weight, self._metric)
        self._pairs: dict[tuple[int, int], tuple[float, Tensor]] = {}

    @torch.no_grad()
    def verify(
        self,
        x: Tensor,
        label: int,
        radius: float,
        *,
        norm: str = "2",
        method: str = "branching",
        allowance: float = 0.0,
        seconds: float = 60.0,
    ) -> Verdict:
        """Decide whether every point of a region around one input is classified as ``label``.

        Args:
            x: the input, without batch dimension.
            label: its class.
            radius: of the Euclidean ball or the ℓ∞ box, in the input's units.
            norm: ``"2"`` or ``"inf"``.
            method: the last step of `LADDER` to try.
            allowance: margin that must be left over, for the errors of the network's own evaluation.
            seconds: after which to give up.
        """
        choices("norm", norm, ("2", "inf"))
        choices("method", method, LADDER)
        check(0.0 < radius < math.inf, "radius", radius, "must be positive and finite")
        check(0 <= label < len(self.network.output), "label", label, f"must lie in 0…{len(self.network.output) - 1}")
        if x.numel() != self.network.weight.shape[1] or not bool(torch.isfinite(x).all()):
            raise InputError(f"x: shape {tuple(x.shape)}; needs {self.network.weight.shape[1]} finite numbers")
        start = time.monotonic()
        run = _Run(self, x.detach().double().cpu().reshape(-1), label, radius, norm, allowance, start + seconds)
        verdict = run.climb(LADDER.index(method))
        found = verdict.counterexample
        shaped = None if found is None else found.reshape(x.shape)
        return replace(verdict, counterexample=shaped, seconds=time.monotonic() - start)

    def region(self, x: Tensor, radius: float, norm: str) -> Region:
        """The region that `verify` is about."""
        return Region.ball(x, radius) if norm == "2" else Region.box(x, radius, self._valid)

    def pair(self, label: int, other: int) -> tuple[float, Tensor]:
        """Proved Euclidean constant of a margin, and the metric that proves it."""
        key = min(label, other), max(label, other)
        if key not in self._pairs:
            row = self.network.output[key[0]] - self.network.output[key[1]]
            found = self._block.bound(row[None])
            self._pairs[key] = (math.inf, self._metric) if found is None else (found.value, found.multipliers)
        return self._pairs[key]


class _Run:
    """One input on its way up the ladder."""

    def __init__(
        self, owner: Verifier, x: Tensor, label: int, radius: float, norm: str, allowance: float, deadline: float
    ) -> None:
        self.owner, self.network, self.label, self.deadline = owner, owner.network, label, deadline
        self.x, self.allowance = x, allowance
        self.region = owner.region(x, radius, norm)
        self.given = radius

    def climb(self, last: int) -> Verdict:
        network, label = self.network, self.label
        try:
            self.centre: Centre = network.centre(self.region.centre)
            at_input = self.centre if self.region.widths is None else network.centre(self.x)
        except CertificateError:
            return Verdict("unknown", "solve")
        if surely_wrong(network, self.x, label):
            return Verdict("misclassified", "input")
        if self._margin(at_input) <= 0.0:
            return Verdict("unknown", "input")
        self.targets = [self._target(other) for other in range(len(network.output)) if other != label]
        left = [target for target in self.targets if not self._globally(target)]
        if not left or last == 0:
            return Verdict("unknown" if left else "certified", "global")
        slopes = network.slopes * (self.region.radius * (1.0 + 1e-14))
        away = slopes + self.centre.error
        self.bounds = Bounds(self.centre.preactivation - away, self.centre.preactivation + away)
        self.bounds = refine(network, self.centre, self.region, self.bounds)
        left = self._by_secants(left)
        if not left or last == 1:
            return Verdict("unknown" if left else "certified", "secants")
        found = self._attacked(left)
        if found is not None:
            return Verdict("falsified", "attack", found)
        self.shares: dict[int, Tensor | None] = {}
        left, found = self._relaxed(left)
        if found is not None:
            return Verdict("falsified", "relaxation", found)
        if not left or last == 2:
            return Verdict("unknown" if left else "certified", "relaxation")
        self._tighten(left)
        left = self._by_secants(left)
        if left:
            left, found = self._relaxed(left)
            if found is not None:
                return Verdict("falsified", "tightened", found)
        if not left or last == 3:
            return Verdict("unknown" if left else "certified", "tightened")
        for target in left:
            status, found = self._branch(target)
            if status != "certified":
                return Verdict(status, "branching", found)
        return Verdict("certified", "branching")

    def _target(self, other: int) -> _Target:
        network, label = self.network, self.label
        row = network.output[label] - network.output[other]
        # Differences of rows round once; states on the region are at most these.
        constant = float(network.output_bias[label] - network.output_bias[other])
        away = self.owner.network.offset_lipschitz * float(self.region.reach(network).norm())
        highest = float(self.centre.state.norm()) + self.centre.state_error + away
        size = float((network.output[label].abs() + network.output[other].abs()).norm()) * highest
        error = 2.0**-52 * (size + abs(constant)) * (1.0 + 1e-9)
        return _Target(other, row, constant, error, self.owner.pair(label, other)[1])

    def _margin(self, centre: Centre) -> float:
        """The least margin at an input, its errors subtracted."""
        network = self.network
        rows = network.output[self.label] - network.output
        terms = rows.abs() @ centre.state.abs() + network.output_bias.abs() + network.output_bias[self.label].abs()
        margin = rows @ centre.state + network.output_bias[self.label] - network.output_bias
        margin = margin - rows.norm(dim=1) * centre.state_error - 1e-13 * terms
        margin[self.label] = torch.inf
        return float(margin.amin())

    def _base(self, target: _Target) -> float:
        """A lower bound of a target's margin at the centre, less what must be left over."""
        value = float(target.row @ self.centre.state) + target.constant
        error = float(target.row.norm()) * self.centre.state_error + target.error
        terms = float(target.row.abs() @ self.centre.state.abs()) + abs(target.constant)
        return value - error * (1.0 + 1e-12) - 1e-13 * terms - self.allowance

    def _globally(self, target: _Target) -> bool:
        constant, _ = self.owner.pair(self.label, target.other)
        return self._base(target) > constant * self.region.radius * (1.0 + 1e-12)

    def _by_secants(self, targets: list[_Target]) -> list[_Target]:
        rows = torch.stack([target.row for target in targets])
        change = margin_change(self.network, self.centre, self.region, self.bounds, rows)
        return [
            target for target, moved in zip(targets, change.tolist(), strict=True) if not self._base(target) > moved
        ]

    def _attacked(self, targets: list[_Target]) -> Tensor | None:
        rows = torch.stack([target.row for target in targets])
        constants = torch.tensor([target.constant for target in targets], dtype=torch.float64)
        start = self.region.centre.expand(len(targets), -1)
        values, points = descend(self.network, self.region, start, rows, constants)
        return self._proved_wrong(values, points)

    def _proved_wrong(self, values: Tensor, points: Tensor) -> Tensor | None:
        for place in torch.argsort(values).tolist():
            if float(values[place]) >= 0.0:
                return None
            if self.holds(points[place]) and surely_wrong(self.network, points[place], self.label):
                return points[place]
        return None

    def holds(self, point: Tensor) -> bool:
        """Whether a point is in the region as it was asked for."""
        change = point - self.x
        if self.region.widths is None:
            return float(change.norm()) <= self.given * (1.0 - 1e-13)
        inside = self.owner._valid is None or bool(((point >= self.owner._valid[0]) & (point <= self.owner._valid[1])).all())
        return inside and float(change.abs().amax()) <= self.given

    def _relaxed(self, targets: list[_Target]) -> tuple[list[_Target], Tensor | None]:
        """The targets that the relaxation leaves open, and a counterexample if its optimum led to one."""
        left = []
        for target in targets:
            if time.monotonic() > self.deadline:
                left.append(target)
                continue
            closed, found, _ = self._bound(target, self.bounds, {})
            if found is not None:
                return targets, found
            if not closed:
                left.append(target)
        return left, None

    def _bound(
        self, target: _Target, bounds: Bounds, decisions: dict[int, int]
    ) -> tuple[bool, Tensor | None, tuple[Reduction, Multipliers] | None]:
        """Whether a target is proved not to win, a counterexample, and the relaxation's optimum."""
        shares = self._shares(target)
        initial: Multipliers | None = None
        rounds = 1 if self.region.widths is None else _BOX_ROUNDS
        reached = -math.inf
        for round_ in range(rounds):
            reduction = Reduction(self.network, self.centre, self.region, bounds, decisions, shares)
            problem = reduction.margin(target.row, target.constant - self.allowance, target.metric, target.error)
            goal = 1e-9 * (1.0 + abs(float(problem.objective[-1])))
            multipliers = minimise(
                problem, target=goal, tolerance=_LOOSE if rounds > 1 else 1e-3, initial=initial,
            )  # fmt: skip
            if multipliers.bound > 0.0 and proved(problem, multipliers) > 0.0:
                self.shares[target.other] = shares
                return True, None, None
            lift = self.region.lift(self.network, problem.pull, shares)
            if round_ == 0 or round_ == rounds - 1:
                point = self.region.project((self.region.centre + lift @ multipliers.direction)[None])
                values, points = descend(
                    self.network, self.region, point, target.row[None],
                    torch.tensor([target.constant], dtype=torch.float64), steps=6,
                )  # fmt: skip
                found = self._proved_wrong(values, points)
                if found is not None:
                    return False, found, None
            if rounds > 1:
                if round_ > 1 and multipliers.bound - reached < -0.08 * multipliers.bound and multipliers.bound < 0.0:
                    pass
                reached = max(reached, multipliers.bound)
                shares = self._reweighted(shares, lift, multipliers)
                initial = multipliers
        self.shares[target.other] = shares
        return False, None, (reduction, multipliers)

    def _shares(self, target: _Target) -> Tensor | None:
        if self.region.widths is None:
            return None
        known = self.shares.get(target.other)
        if known is not None:
            return known
        # Best for the linear function with the margin's gradient at the centre: shares ∝ |gradient|/width.
        active = (self.centre.preactivation > 0.0).double()
        identity = torch.eye(len(active), dtype=torch.float64)
        through = torch.linalg.solve_ex((identity - active[:, None] * self.network.matrix).t(), target.row[:, None])[0][:, 0]
        gradient = ((through * active) @ self.network.weight).abs()
        return (gradient + 0.3 * float(gradient.mean()) + 1e-300) / self.region.widths.clamp_min(1e-9 * self.given)

    def _reweighted(self, shares: Tensor | None, lift: Tensor, multipliers: Multipliers) -> Tensor:
        """d·√(E[x²]/width²): a fixed point of this is a best ellipsoid."""
        assert shares is not None and self.region.widths is not None
        square = ((lift @ multipliers.squares) * lift).sum(1).clamp_min(0.0)
        ratio = square.sqrt() / self.region.widths.clamp_min(1e-9 * self.given)
        found = shares * ratio.clamp(1e-2, 1e2)
        return found.clamp_min(1e-6 * float(found.amax()))

    def _tighten(self, targets: list[_Target]) -> None:
        """Bound the uncertain units by the relaxation itself."""
        shares = self._shares(targets[0])
        opened = torch.nonzero(self.bounds.uncertain())[:, 0].tolist()
        lower, upper = self.bounds.lower.clone(), self.bounds.upper.clone()
        # The units nearest to being decided first.
        order = sorted(opened, key=lambda unit: min(-float(lower[unit]), float(upper[unit])))
        reduction = Reduction(self.network, self.centre, self.region, self.bounds, None, shares)
        for unit in order:
            if time.monotonic() > self.deadline:
                break
            for sign in (1.0, -1.0):
                problem = reduction.preactivation(unit, sign, self.owner._metric)
                found = proved(problem, minimise(problem, tolerance=_LOOSE))
                if sign > 0:
                    lower[unit] = max(float(lower[unit]), found)
                else:
                    upper[unit] = min(float(upper[unit]), -found)
        self.bounds = refine(self.network, self.centre, self.region, Bounds(lower, upper))

    def _branch(self, target: _Target) -> tuple[str, Tensor | None]:
        """Split on the signs of pre-activations, the least promising part first, until all parts are proved or one is refuted."""
        counter = itertools.count()
        waiting: list[tuple[float, int, dict[int, int]]] = [(-math.inf, next(counter), {})]
        while waiting:
            if time.monotonic() > self.deadline:
                return "unknown", None
            _, _, decisions = heapq.heappop(waiting)
            closed, found, state = self._bound(target, self.bounds, decisions)
            if found is not None:
                return "falsified", found
            if closed:
                continue
            assert state is not None
            reduction, multipliers = state
            if not len(reduction.open):
                return "unknown", None  # nothing left to split: too close to call
            unit = int(reduction.open[int(multipliers.conflict.argmax())])
            for sign in (1, -1):
                heapq.heappush(waiting, (multipliers.bound, next(counter), {**decisions, unit: sign}))
        return "certified", None

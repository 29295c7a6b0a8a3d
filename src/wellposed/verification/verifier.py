"""Verification of single inputs, from the cheapest method to a complete one."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import torch
from torch import Tensor, nn
from typing_extensions import override

from wellposed.bounds.affine_network import affine_network
from wellposed.bounds.diagonal_metric import DenseMetricProblem
from wellposed.errors import checked_options
from wellposed.network import Network
from wellposed.numerics.outward import enlarged
from wellposed.verification.attack import descend
from wellposed.verification.base import RegionQuestion, RegionVerifier, check_class_label
from wellposed.verification.bounding import Bounding, Outcome
from wellposed.verification.branching import branch
from wellposed.verification.question import Margins, Question, Target, counterexamples, wrong_at
from wellposed.verification.reduction import Bounds
from wellposed.verification.region import Region
from wellposed.verification.secants import margin_change, refine
from wellposed.verification.verdict import Verdict

_ENTRIES = 2**24  # of the largest arrays of a batch
LADDER = ("global", "secants", "relaxation", "tightening", "branching")


class Verifier(RegionVerifier):
    """Verifies inputs of one model; what depends on the weights alone is computed once.

    Verdicts are about the stored numbers, W, U and C as they run, in exact arithmetic. The option ``allowance`` of `verify` makes
    them hold for an evaluation with errors.

    Args:
        model: normalisation, flattening, one ReLU layer on flat inputs and a linear head, in eval mode.
        valid: range of the pixels that boxes are clipped to; None for any numbers.

    Raises:
        CertificateError: the model is of another kind, or not known to be well posed.
    """

    @checked_options
    def __init__(self, model: nn.Module | Network, *, valid: tuple[float, float] | None = (0.0, 1.0)) -> None:
        self.network = affine_network(model)
        self.valid, self.steps = valid, LADDER
        self.inputs, self.classes = self.network.weight.shape[1], len(self.network.output)
        units = len(self.network.matrix)
        self.batch_size = max(1, min(100, _ENTRIES // (units * (units + self.inputs))))
        self._metric = self.network.metric
        self._block = DenseMetricProblem(self.network.matrix, self.network.weight, self._metric)
        self._pairs: dict[tuple[int, int], tuple[float, Tensor]] = {}

    @override
    def answers(self, questions: list[RegionQuestion], last: int, seconds: float) -> list[Verdict]:
        """The steps that are linear algebra for all inputs together; what they leave open, one by one."""
        start = time.monotonic()
        verdicts, left = self._together(questions, last)
        share = (time.monotonic() - start) / len(questions)
        for place, (question, bounds, others) in left.items():
            begun = time.monotonic()
            verdict = self._relaxed(question, bounds, others, last, begun + seconds - share)
            verdicts[place] = replace(verdict, seconds=time.monotonic() - begun)
        return [replace(verdict, seconds=verdict.seconds + share) for verdict in verdicts]

    def _together(
        self, questions: list[RegionQuestion], last: int
    ) -> tuple[list[Verdict], dict[int, tuple[Question, Bounds, list[int]]]]:
        """Verdicts so far, and by place the questions that go on, with bounds and the classes that may still win."""
        network = self.network
        points, labels = (
            torch.stack([asked.x for asked in questions]),
            torch.tensor([asked.label for asked in questions], device="cpu"),
        )
        region = Region.stack([asked.region for asked in questions])
        centre = network.centre(region.centre)
        at_points = centre if region.widths is None else network.centre(points)
        allowances = torch.tensor([asked.allowance for asked in questions], dtype=torch.float64, device="cpu")
        margins = Margins.of(network, centre, region, labels, allowances)
        constants = torch.tensor(
            [[self.pair(label, other)[0] for other in range(self.classes)] for label in labels.tolist()], device="cpu"
        )
        opened = ~(margins.bases > enlarged(constants * region.radius[:, None], 1))
        opened = opened.scatter(1, labels[:, None], False)
        wrong = wrong_at(network, at_points, labels)
        verdicts = [Verdict("certified", "global")] * len(questions)
        for place in torch.nonzero(opened.any(1) | wrong)[:, 0].tolist():
            lost, solved = bool(wrong[place]), bool(centre.converged[place])
            verdicts[place] = Verdict(
                "misclassified" if lost else "unknown", "global" if solved and not lost else "input"
            )
        rest = torch.nonzero(opened.any(1) & ~wrong & centre.converged)[:, 0]
        if last == 0 or not len(rest):
            return verdicts, {}

        centre, region, margins, opened = centre[rest], region[rest], margins[rest], opened[rest]
        away = enlarged(network.slopes * region.radius[:, None] + centre.error, 2)
        bounds = refine(network, centre, region, Bounds(centre.preactivation - away, centre.preactivation + away))
        opened &= ~(margins.bases > margin_change(network, centre, region, bounds, margins.rows))
        places, others = torch.nonzero(opened, as_tuple=True)
        found: dict[int, Tensor] = {}
        if last > 1 and len(places):
            start = region.centre[places]
            goals = margins.rows[places, others], margins.constants[places, others]
            attacked = descend(network, region[places], start, *goals, places)
            found = counterexamples(network, [questions[int(rest[k])] for k in places], *attacked, places.tolist())
        left = {}
        for k, place in enumerate(rest.tolist()):
            unproved = torch.nonzero(opened[k])[:, 0].tolist()
            if not unproved or last == 1:
                verdicts[place] = Verdict("unknown" if unproved else "certified", "secants")
            elif k in found:
                verdicts[place] = Verdict("falsified", "attack", found[k])
            else:
                left[place] = Question.of(questions[place], network, centre[k], margins[k]), bounds[k], unproved
        return verdicts, left

    def _relaxed(self, question: Question, bounds: Bounds, others: list[int], last: int, deadline: float) -> Verdict:
        """The relaxation, bound tightening by it, and branch and bound."""
        bounding = Bounding(question, bounds, self._metric)
        left = [question.target(other, self.pair(question.label, other)[1]) for other in others]
        left, _, found = _relaxed(bounding, left, deadline)
        if found is not None or not left or last == 2:
            return _verdict(left, found, "relaxation")
        bounding.tighten(left[0], deadline)
        left = _by_secants(question, bounding.bounds, left)
        left, known, found = _relaxed(bounding, left, deadline)
        if found is not None or not left or last == 3:
            return _verdict(left, found, "tightening")
        for target in left:
            status, found = branch(bounding, target, known.get(target.other), deadline)
            if status != "certified":
                return Verdict(status, "branching", found)
        return Verdict("certified", "branching")

    def pair(self, label: int, other: int) -> tuple[float, Tensor]:
        """Proved Euclidean constant of a margin, and the metric that proves it."""
        for argument, value in (("label", label), ("other", other)):
            check_class_label(argument, value, self.classes)
        if label == other:
            return 0.0, self._metric
        key = min(label, other), max(label, other)
        if key not in self._pairs:
            found = self._block.bound((self.network.output[key[0]] - self.network.output[key[1]])[None])
            self._pairs[key] = (math.inf, self._metric) if found is None else (found.value, found.multipliers)
        return self._pairs[key]


def _verdict(left: list[Target], found: Tensor | None, method: str) -> Verdict:
    if found is not None:
        return Verdict("falsified", method, found)
    return Verdict("unknown" if left else "certified", method)


def _by_secants(question: Question, bounds: Bounds, targets: list[Target]) -> list[Target]:
    """The targets that secant slopes leave open."""
    rows = torch.stack([target.row for target in targets])
    change = margin_change(question.network, question.centre, question.region, bounds, rows).tolist()
    return [target for target, moved in zip(targets, change, strict=True) if not target.base > moved]


def _relaxed(
    bounding: Bounding, targets: list[Target], deadline: float
) -> tuple[list[Target], dict[int, Outcome], Tensor | None]:
    """The targets that the relaxation leaves open, what it says of them by their classes, and a counterexample if it led to one.

    Those after a group that it fails at are left open, too: it needs more than this step, which will help the others.
    """
    left = sorted(targets, key=lambda target: target.base)
    opened: dict[int, Outcome] = {}
    for group in bounding.groups(list(left)):
        if opened or time.monotonic() > deadline:
            break
        outcomes = dict(
            zip((target.other for target in group), bounding.bound([(target, {}) for target in group]), strict=True)
        )
        found = next(
            (outcome.counterexample for outcome in outcomes.values() if outcome.counterexample is not None), None
        )
        if found is not None:
            return left, {}, found
        opened = {other: outcome for other, outcome in outcomes.items() if not outcome.proved}
        left = [target for target in left if target.other not in outcomes or target.other in opened]
    return left, opened, None

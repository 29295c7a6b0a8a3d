"""Verification of single inputs, from the cheapest method to a complete one."""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor, nn

from wellposed.certificates.affine_network import AffineNetwork, affine_network
from wellposed.certificates.diagonal_metric import AffineBlock
from wellposed.errors import CertificateError
from wellposed.verification.attack import descend
from wellposed.verification.base import RegionQuestion, RegionVerifier
from wellposed.verification.bounding import Bounding
from wellposed.verification.branching import branch
from wellposed.verification.question import Question, Target, surely_wrong
from wellposed.verification.reduction import Bounds
from wellposed.verification.secants import margin_change, refine
from wellposed.verification.verdict import Verdict

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

    def __init__(self, model: nn.Module | AffineNetwork, *, valid: tuple[float, float] | None = (0.0, 1.0)) -> None:
        self.network = model if isinstance(model, AffineNetwork) else affine_network(model)
        self.valid, self.steps = valid, LADDER
        self.inputs, self.classes = self.network.weight.shape[1], len(self.network.output)
        metric = self.network.layer.guarantee().diagonal_metric()
        size = len(self.network.matrix)
        self._metric = torch.ones(size, dtype=torch.float64) if metric is None else metric.detach().double().cpu()
        self._block = AffineBlock(self.network.matrix, self.network.weight, self._metric)
        self._pairs: dict[tuple[int, int], tuple[float, Tensor]] = {}

    def _answer(self, asked: RegionQuestion, last: int, deadline: float) -> Verdict:
        network, label, region = self.network, asked.label, asked.region
        if surely_wrong(network, asked.x, label):
            return Verdict("misclassified", "input")
        try:
            centre = network.centre(region.centre)
        except CertificateError:  # the solve did not converge
            return Verdict("unknown", "input")
        question = Question.of(asked, network, centre)
        targets = [
            question.target(other, self.pair(label, other)[1]) for other in range(len(network.output)) if other != label
        ]
        left = [target for target in targets if not self._globally(target, question)]
        if not left or last == 0:
            return Verdict("unknown" if left else "certified", "global")

        away = network.slopes * (region.radius * (1.0 + 1e-14)) + centre.error
        bounds = Bounds(centre.preactivation - away, centre.preactivation + away)
        bounds = refine(network, centre, region, bounds)
        left = _by_secants(question, bounds, left)
        if not left or last == 1:
            return Verdict("unknown" if left else "certified", "secants")
        found = _attack(question, left)
        if found is not None:
            return Verdict("falsified", "attack", found)

        bounding = Bounding(question, bounds, self._metric)
        left, found = _relaxed(bounding, left, deadline)
        if found is not None or not left or last == 2:
            return _verdict(left, found, "relaxation")
        bounding.tighten(left[0], deadline)
        left = _by_secants(question, bounding.bounds, left)
        left, found = _relaxed(bounding, left, deadline)
        if found is not None or not left or last == 3:
            return _verdict(left, found, "tightening")
        for target in left:
            status, found = branch(bounding, target, deadline)
            if status != "certified":
                return Verdict(status, "branching", found)
        return Verdict("certified", "branching")

    def pair(self, label: int, other: int) -> tuple[float, Tensor]:
        """Proved Euclidean constant of a margin, and the metric that proves it."""
        key = min(label, other), max(label, other)
        if key not in self._pairs:
            found = self._block.bound((self.network.output[key[0]] - self.network.output[key[1]])[None])
            self._pairs[key] = (math.inf, self._metric) if found is None else (found.value, found.multipliers)
        return self._pairs[key]

    def _globally(self, target: Target, question: Question) -> bool:
        constant, _ = self.pair(question.label, target.other)
        return target.base > constant * question.region.radius * (1.0 + 1e-12)


def _verdict(left: list[Target], found: Tensor | None, method: str) -> Verdict:
    if found is not None:
        return Verdict("falsified", method, found)
    return Verdict("unknown" if left else "certified", method)


def _by_secants(question: Question, bounds: Bounds, targets: list[Target]) -> list[Target]:
    """The targets that secant slopes leave open."""
    rows = torch.stack([target.row for target in targets])
    change = margin_change(question.network, question.centre, question.region, bounds, rows).tolist()
    return [target for target, moved in zip(targets, change, strict=True) if not target.base > moved]


def _attack(question: Question, targets: list[Target]) -> Tensor | None:
    rows = torch.stack([target.row for target in targets])
    constants = torch.tensor([target.constant for target in targets], dtype=torch.float64)
    start = question.region.centre.expand(len(targets), -1)
    return question.counterexample(*descend(question.network, question.region, start, rows, constants))


def _relaxed(bounding: Bounding, targets: list[Target], deadline: float) -> tuple[list[Target], Tensor | None]:
    """The targets that the relaxation leaves open, from the first on that it fails at, and a counterexample if it led to one."""
    left = sorted(targets, key=lambda target: target.base)
    while left and time.monotonic() < deadline:
        outcome = bounding.bound(left[0], {})
        if outcome.counterexample is not None:
            return left, outcome.counterexample
        if not outcome.proved:
            break  # this one needs more than this step, which will help the others too
        del left[0]
    return left, None

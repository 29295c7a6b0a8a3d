"""Verification of single inputs of any chain with known constants: by these, by hulls or intervals, and an attack."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor, nn
from typing_extensions import override

from wellposed.certificates.certificate import Certificate
from wellposed.certificates.certification import certify
from wellposed.errors import CertificateError, InputError, checked_fields
from wellposed.network import Network, bounded_logits, materialise, surely_misclassified
from wellposed.numerics.outward import below, enlarged
from wellposed.verification.base import RegionQuestion, RegionVerifier
from wellposed.verification.intervals import IntervalVerifier
from wellposed.verification.positive import PositiveVerifier
from wellposed.verification.verdict import Verdict

_STEPS = 20  # of the attack


@checked_fields
class ChainVerifier(RegionVerifier):
    """Verifies inputs of one model by the constants of its class margins and what is known of it locally, and attacks the rest.

    Verdicts are about the stored numbers as they run, in exact arithmetic.

    Args:
        model: a network, or a module to be materialised, with class margins.
        valid: range of the pixels that boxes are clipped to; None for any numbers.

    Raises:
        CertificateError: the model is of another kind.
    """

    def __init__(self, model: nn.Module | Network, *, valid: tuple[float, float] | None = (0.0, 1.0)) -> None:
        self.network = materialise(model)
        self._certificate = certify(self.network)
        if self._certificate.pairs is None:
            raise CertificateError("model: verification needs class margins, and so a linear map at the end")
        self.classes = len(self._certificate.pairs)
        self.valid, self.inputs, self.batch_size = valid, None, 32
        self._exact = self.network.exact
        self._local = _local_verifier(self.network, valid)
        self.steps = ("global", *(() if self._local is None else self._local.steps), "attack")

    @cached_property
    def _in_boxes(self) -> Certificate | None:
        """Constants in the ℓ∞ norm, where they are known."""
        try:
            return certify(self.network, norm="inf")
        except CertificateError:
            return None

    @override
    def answers(self, questions: list[RegionQuestion], last: int, seconds: float) -> list[Verdict]:
        start = time.monotonic()
        points = torch.stack([asked.x.reshape(asked.shape) for asked in questions])
        labels = torch.tensor([asked.label for asked in questions], device="cpu")
        wrong = surely_misclassified(self._exact, points, labels).tolist()
        sure = self._by_constants(questions, points, labels).tolist()
        verdicts = [
            Verdict("misclassified", "input") if lost else Verdict("certified" if good else "unknown", "global")
            for lost, good in zip(wrong, sure, strict=True)
        ]
        if last >= 1 and self._local is not None:
            rest = [place for place, verdict in enumerate(verdicts) if verdict.status == "unknown"]
            for place, verdict in zip(rest, self._local.answers([questions[k] for k in rest], 0, seconds), strict=True):
                verdicts[place] = verdict
        if last == len(self.steps) - 1:
            rest = [place for place, verdict in enumerate(verdicts) if verdict.status == "unknown"]
            found = self._attacked([questions[k] for k in rest], start + seconds * len(questions))
            for place, point in zip(rest, found, strict=True):
                verdicts[place] = (
                    Verdict("unknown", "attack") if point is None else Verdict("falsified", "attack", point)
                )
        each = (time.monotonic() - start) / len(questions)
        return [replace(verdict, seconds=each) for verdict in verdicts]

    def _by_constants(self, questions: list[RegionQuestion], points: Tensor, labels: Tensor) -> Tensor:
        """Which margins are larger than what the constants let them lose, boolean, shape (batch,)."""
        result = bounded_logits(self._exact, points)
        logits = result.logits.double()
        error = enlarged(math.sqrt(2.0) * result.error.double(), 2)
        allowances = torch.tensor([asked.allowance for asked in questions], dtype=torch.float64, device="cpu")
        margins = below(below(logits.gather(1, labels[:, None]) - logits) - error[:, None])
        margins = below(margins - allowances[:, None])
        inputs = points[0].numel()
        away = [
            enlarged(float(asked.region.radius + (asked.region.centre - asked.x).norm()), inputs + 4)
            for asked in questions
        ]
        certificates = [(self._certificate, away)]
        if questions[0].region.widths is not None and self._in_boxes is not None:
            certificates.append((self._in_boxes, [asked.radius for asked in questions]))
        sure = torch.zeros(len(questions), dtype=torch.bool, device="cpu")
        own = nn.functional.one_hot(labels, self.classes).bool()
        for certificate, reach in certificates:
            if certificate.pairs is not None:
                lost = enlarged(
                    certificate.pairs[labels] * torch.tensor(reach, dtype=torch.float64, device="cpu")[:, None], 1
                )
                sure |= ((margins > lost) | own).all(1)
        return sure

    def _attacked(self, questions: list[RegionQuestion], deadline: float) -> list[Tensor | None]:
        """Points of the regions that are surely misclassified, flat, by projected gradient descent on the least margin."""
        found: list[Tensor | None] = [None] * len(questions)
        points = [asked.region.centre for asked in questions]
        for step in range(_STEPS):
            rest = [place for place, point in enumerate(found) if point is None]
            if not rest or time.monotonic() > deadline:
                break
            labels = torch.tensor([questions[place].label for place in rest], device="cpu")
            inside = [questions[place].inside(points[place]) for place in rest]
            shaped = torch.stack([point.reshape(questions[0].shape) for point in inside])
            fooled = surely_misclassified(self._exact, shaped, labels).tolist()
            gradients = self._gradients(shaped, labels).flatten(1)
            share = 0.5 ** (step / 5)
            for place, lost, point, gradient in zip(rest, fooled, inside, gradients, strict=True):
                if lost:
                    found[place] = point
                    continue
                region = questions[place].region
                goal = region.extreme(gradient[None])
                points[place] = region.project(points[place] + share * (goal - points[place]))[0]
        return found

    @torch.enable_grad()
    def _gradients(self, points: Tensor, labels: Tensor) -> Tensor:
        """Gradients of the least margins with respect to the inputs."""
        points = points.detach().requires_grad_()
        logits = self._exact(points)
        others = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
        (gradient,) = torch.autograd.grad((logits.gather(1, labels[:, None])[:, 0] - others).sum(), points)
        return gradient


def _local_verifier(model: Network, valid: tuple[float, float] | None) -> RegionVerifier | None:
    """The strongest verifier that knows something of the network locally, if any does."""
    for kind in (PositiveVerifier, IntervalVerifier):
        with suppress(CertificateError, InputError):
            return kind(model, valid=valid)
    return None

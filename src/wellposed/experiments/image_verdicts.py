"""Verdicts on a few images: the piece of work that verification of a test set spreads over processes and machines."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.network import Network
from wellposed.numerics.outward import enlarged
from wellposed.verification import RegionVerifier, Verdict

_TOGETHER = 20  # images at most: what is lost when a process is stopped, and what is waited for in the end


@dataclass(frozen=True)
class Outcome:
    """What became of a few images.

    Attributes:
        status: per radius, the status of every image; see `Verdict`.
        methods: per radius, what decided.
        seconds: that it took.
    """

    status: list[list[str]]
    methods: list[list[str]]
    seconds: float


@dataclass(frozen=True)
class ImageVerdicts:
    """Verifies a few images around which regions of several radii lie; it can be pickled, and goes to each process once.

    Attributes:
        network: what is verified.
        verifier: of that network.
        norm: ``"2"`` or ``"inf"``.
        radii: of the regions, increasing.
        seconds: per image and radius, after which to give up.
    """

    network: Network
    verifier: RegionVerifier
    norm: str
    radii: list[float]
    seconds: float

    @property
    def together(self) -> int:
        """How many images are a piece of work."""
        return min(self.verifier.batch_size, _TOGETHER)

    def __call__(self, few: tuple[Tensor, Tensor]) -> Outcome:
        """Verdicts on images, a tensor of shape (few, ...), and their labels, of shape (few,)."""
        start = time.monotonic()
        found = self._verdicts(*few)
        status = [[verdict.status for verdict in verdicts] for verdicts in found]
        methods = [[verdict.method for verdict in verdicts] for verdicts in found]
        return Outcome(status, methods, time.monotonic() - start)

    def _verdicts(self, images: Tensor, labels: Tensor) -> list[list[Verdict]]:
        """Verdicts on all images at increasing radii; what is falsified at one is so at every larger one."""
        allowances = self._allowances(images)
        unknown = Verdict("unknown", "input")
        found: list[list[Verdict]] = []
        for place, radius in enumerate(self.radii):
            before = found[-1] if found else [unknown] * len(images)
            settled = [verdict.status in ("falsified", "misclassified") for verdict in before]
            verdicts = [verdict if kept else unknown for verdict, kept in zip(before, settled, strict=True)]
            usable = torch.isfinite(allowances[:, place]).tolist()
            ask = [k for k in range(len(images)) if usable[k] and not settled[k]]
            answers = self.verifier.verify_batch(
                images[ask], labels[ask].tolist(), radius, norm=self.norm, allowances=allowances[ask, place].tolist(),
                seconds=self.seconds,
            )  # fmt: skip
            for k, verdict in zip(ask, answers, strict=True):
                verdicts[k] = verdict
            found.append(verdicts)
        return found

    def _allowances(self, images: Tensor) -> Tensor:
        """What the network's own evaluation may err by at any point of a region, shape (few, radii)."""
        result = self.network.bounded(images)
        away = 1.0 if self.norm == "2" else math.sqrt(images[0].numel())  # Euclidean distance of a region's points
        reach = torch.tensor(self.radii, dtype=torch.float64, device="cpu") * away
        return enlarged(math.sqrt(2.0) * (result.elsewhere[:, None] + result.growth[:, None] * reach), 6)

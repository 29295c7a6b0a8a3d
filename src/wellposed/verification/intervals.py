"""Verification of single inputs by intervals, which every block of a network passes on.

Margins are bounded by differences of the rows of the last linear map, which loses less than bounding logits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from wellposed.errors import CertificateError, checked_fields
from wellposed.network import Network, materialise
from wellposed.network.logits import check_logits
from wellposed.network.shapes import probe_shapes
from wellposed.verification.base import RegionQuestion, RegionVerifier
from wellposed.verification.images import images_of
from wellposed.verification.region import Region
from wellposed.verification.verdict import Verdict


@checked_fields
class IntervalVerifier(RegionVerifier):
    """Verifies inputs of one model by intervals, which is quick and works for any chain of blocks whose intervals are known.

    Args:
        model: a network, or a module to be materialised.
        valid: range of the pixels that boxes are clipped to; None for any numbers.

    Raises:
        CertificateError: a block has no known interval.
        InputError: the outputs are no vectors.
    """

    @torch.no_grad()
    def __init__(self, model: nn.Module | Network, *, valid: tuple[float, float] | None = (0.0, 1.0)) -> None:
        network = materialise(model)
        if network.takes_graphs:
            raise CertificateError("model: intervals are for single inputs, not for graphs")
        self._network = network.exact
        blocks = [part for block in self._network.blocks for part in block.parts]
        while len(blocks) > 1 and blocks[-1].moves:
            blocks.pop()
        self._body, self._last = blocks[:-1], blocks[-1]
        self.valid, self.steps, self.batch_size = valid, ("embedding",), 32
        self.inputs = None if network.input_shape is None else math.prod(network.input_shape)
        self._try()

    def _try(self) -> None:
        """Ask every block once, at one input, and find the number of outputs."""
        parts = nn.ModuleList([block.module for block in self._network.blocks])
        likely = probe_shapes(self._network.blocks, parts, torch.float64)
        shape = self._network.input_shape or next(likely, None)
        if shape is None:
            raise CertificateError(
                "model: no shape of inputs is known; give it, as in wellposed.materialise(model, input_shape)"
            )
        zeros = torch.zeros(1, math.prod(shape), dtype=torch.float64, device="cpu")
        point = Region(zeros, zeros[:, 0], zeros)
        self.classes = self.margins(point, shape, torch.zeros(1, dtype=torch.long, device="cpu"))[0].shape[1]

    @override
    def answers(self, questions: list[RegionQuestion], last: int, seconds: float) -> list[Verdict]:
        """Verdicts on all questions together: intervals take a fixed time."""
        if not questions:
            return []
        start, shape = time.monotonic(), questions[0].shape
        labels = torch.tensor([asked.label for asked in questions], device="cpu")
        points = torch.stack([asked.x for asked in questions])
        self._network.check_input(points.reshape(-1, *shape))
        still = torch.zeros_like(points)
        wrong = self.margins(Region(points, still[:, 0], still), shape, labels)[1].amin(1) < 0.0
        low = self._lower(Region.stack([asked.region for asked in questions]), shape, labels)
        certified = low.amin(1) > torch.tensor(
            [asked.allowance for asked in questions], dtype=torch.float64, device="cpu"
        )
        each = (time.monotonic() - start) / len(questions)
        return [
            Verdict("misclassified", "input", seconds=each)
            if lost
            else Verdict("certified" if sure else "unknown", self.steps[0], seconds=each)
            for lost, sure in zip(wrong.tolist(), certified.tolist(), strict=True)
        ]

    def _lower(self, regions: Region, shape: Sequence[int], labels: Tensor) -> Tensor:
        """Lower bounds of the margins over the other classes, shape (batch, classes), infinite at the label."""
        return self.margins(regions, shape, labels)[0]

    @torch.no_grad()
    def margins(self, regions: Region, shape: Sequence[int], labels: Tensor) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds of the margins over the other classes, without a bound where nothing is proved.

        Args:
            regions: of inputs, with a dimension for their number in front.
            shape: of one input.
            labels: the classes, shape (batch,).

        Returns:
            Two tensors of shape (batch, classes), positive infinity at the label.
        """
        check_logits(self._network.output_shape(tuple(shape)))
        images = images_of(regions, shape)
        for block in self._body:
            images = images.behind(block)
        boxes = images.boxes()
        low, high = self._last.margins(boxes.lower, boxes.upper, labels)
        known = boxes.known & torch.isfinite(high - low).all(1)
        low, high = low.where(known[:, None], -math.inf), high.where(known[:, None], math.inf)
        return low.scatter(1, labels[:, None], math.inf), high.scatter(1, labels[:, None], math.inf)

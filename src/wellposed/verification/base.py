"""What all verifiers share: the question is checked, answered in flat float64, and the answer given back in the input's shape."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from dataclasses import replace

import torch
from torch import Tensor

from wellposed.errors import InputError, check, choices
from wellposed.verification.region import Region
from wellposed.verification.verdict import Verdict

NORMS = ("2", "inf")


class RegionVerifier(ABC):
    """Verifies inputs of one model.

    Attributes:
        steps: what it tries, in order.
        inputs: size of an input.
        classes: number of outputs.
        valid: range of the pixels that boxes are clipped to; None for any numbers.
    """

    steps: tuple[str, ...]
    inputs: int
    classes: int
    valid: tuple[float, float] | None

    @torch.no_grad()
    def verify(
        self,
        x: Tensor,
        label: int,
        radius: float,
        *,
        norm: int | str = 2,
        method: str | None = None,
        allowance: float = 0.0,
        seconds: float = 60.0,
    ) -> Verdict:
        """Decide, if possible, whether every point of a region around one input is classified as ``label``.

        Args:
            x: the input, without batch dimension.
            label: its class.
            radius: of the Euclidean ball or the ℓ∞ box, in the input's units.
            norm: 2 or ``"inf"``.
            method: the last of ``steps`` to try; None for all.
            allowance: margin that must be left over, for the errors of the network's own evaluation.
            seconds: after which to give up.
        """
        last = self.steps[-1] if method is None else method
        choices("norm", str(norm), NORMS)
        choices("method", last, self.steps)
        check(0.0 < radius < math.inf, "radius", radius, "must be positive and finite")
        check(allowance >= 0.0, "allowance", allowance, "must not be negative or NaN")
        check(0 <= label < self.classes, "label", label, f"must lie in 0…{self.classes - 1}")
        if x.numel() != self.inputs or not bool(torch.isfinite(x).all()):
            raise InputError(f"x: shape {tuple(x.shape)}; needs {self.inputs} finite numbers")
        point = x.detach().double().cpu().reshape(-1)
        low, high = float(point.min()), float(point.max())
        if self.valid is not None and not self.valid[0] <= low <= high <= self.valid[1]:
            raise InputError(f"x: pixels span [{low:.3g}, {high:.3g}]; they must lie in {self.valid}")
        region = Region.ball(point, radius) if str(norm) == "2" else Region.box(point, radius, self.valid)
        start = time.monotonic()
        verdict = self._answer(point, label, radius, region, allowance, self.steps.index(last), start + seconds)
        found = verdict.counterexample
        shaped = None if found is None else found.reshape(x.shape)
        return replace(verdict, counterexample=shaped, seconds=time.monotonic() - start)

    @abstractmethod
    def _answer(
        self, x: Tensor, label: int, radius: float, region: Region, allowance: float, last: int, deadline: float
    ) -> Verdict:
        """The verdict on a region around x, shape (inputs,), float64; ``last`` is the place of the last step to try."""

"""What all verifiers share: the question is checked, answered in flat float64, and the answer given back in the input's shape."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from wellposed.errors import InputError, check, check_number, choices
from wellposed.numerics.norm import Norm, norm_named
from wellposed.numerics.outward import reduced, rounding_constant
from wellposed.verification.region import Region
from wellposed.verification.verdict import Verdict

NORMS: tuple[Norm, ...] = ("2", "inf")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class RegionQuestion:
    """One input and the region around it.

    Attributes:
        x: the input, shape (inputs,), float64.
        label: its class.
        radius: in the input's units.
        region: the points that are to be classified alike.
        allowance: margin that must be left over.
        shape: of the input as it was given.
        valid: range of the pixels that boxes are clipped to; None for any numbers.
    """

    x: Tensor
    label: int
    radius: float
    region: Region
    allowance: float
    shape: tuple[int, ...]
    valid: tuple[float, float] | None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(label={self.label}, radius={self.radius:.6g}, shape={self.shape})"

    def inside(self, point: Tensor) -> Tensor:
        """The nearest point that is surely in the region as it was asked for, which is a little smaller than ``region``."""
        change, box = point - self.x, self.region.widths is not None
        # Less what adding the change can round, in the region's norm: of a point inside a unit of |x| + radius at most.
        rounding = rounding_constant(4) * float(self.x.abs().amax() if box else self.x.norm())
        allowed = max(reduced(self.radius, self.x.numel() + 8) - rounding, 0.0)
        if not box:
            return self.x + change * min(1.0, allowed / max(float(change.norm()), 1e-300))
        found = self.x + change.clamp(-allowed, allowed)
        return found if self.valid is None else found.clamp(*self.valid)


class RegionVerifier(ABC):
    """Verifies inputs of one model.

    Attributes:
        steps: what it tries, in order.
        inputs: size of an input; None for whatever the model takes.
        classes: number of outputs.
        valid: range of the pixels that boxes are clipped to; None for any numbers.
        batch_size: how many inputs it is best asked about together.
    """

    steps: tuple[str, ...]
    inputs: int | None
    classes: int
    valid: tuple[float, float] | None
    batch_size: int = 1

    def verify(
        self,
        x: Tensor,
        label: int,
        radius: float,
        *,
        norm: float | str = 2,
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
        if not isinstance(x, Tensor):
            raise InputError(f"x: is a {type(x).__name__}; needs a floating-point tensor, one input")
        return self.verify_batch(
            x[None], [label], radius, norm=norm, method=method, allowances=[allowance], seconds=seconds
        )[0]

    @torch.no_grad()
    def verify_batch(
        self,
        x: Tensor,
        labels: Sequence[int] | Tensor,
        radius: float,
        *,
        norm: float | str = 2,
        method: str | None = None,
        allowances: Sequence[float] | Tensor | None = None,
        seconds: float = 60.0,
    ) -> list[Verdict]:
        """Decide about several inputs as `verify` does about one, ``batch_size`` of them in one go.

        Args:
            x: inputs, shape (batch, ...).
            labels: their classes; a tensor of integers, too.
            radius: of the Euclidean balls or the ℓ∞ boxes, in the units of the inputs.
            norm: 2 or ``"inf"``.
            method: the last of ``steps`` to try; None for all.
            allowances: for each input the margin that must be left over; None for zero.
            seconds: for each input, after which to give up.
        """
        last = self.steps[-1] if method is None else method
        named = norm_named(norm, NORMS)
        choices("method", last, self.steps)
        self._check_valid()
        check_number("radius", radius, 0.0, math.inf, "must be positive and finite")
        if not isinstance(x, Tensor) or x.ndim < 2:
            found = f"has shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"is a {type(x).__name__}"
            raise InputError(f"x: {found}; needs a floating-point tensor of inputs, shape (batch, ...)")
        if not x.is_floating_point():
            raise InputError(f"x: has dtype {x.dtype}; needs floating-point numbers, convert it with x.float()")
        labels = _listed("labels", labels)
        check(len(labels) == len(x), "labels", len(labels), f"must be one for each of {len(x)} inputs")
        given = [0.0] * len(x) if allowances is None else _listed("allowances", allowances)
        numbers = all(isinstance(each, Real) and float(each) >= 0.0 for each in given)
        check(numbers and len(given) == len(x), "allowances", given, f"must be {len(x)} numbers that are not negative")
        check(isinstance(seconds, Real) and seconds > 0.0, "seconds", seconds, "must be a positive number")
        questions = [
            self._question(image, label, radius, named, allowance)
            for image, label, allowance in zip(x, labels, given, strict=True)
        ]
        verdicts: list[Verdict] = []
        for start in range(0, len(questions), self.batch_size):
            few = questions[start : start + self.batch_size]
            verdicts += self.answers(few, self.steps.index(last), seconds)
        return [verdict.shaped(x.shape[1:]) for verdict in verdicts]

    def _check_valid(self) -> None:
        if self.valid is None:
            return
        ends = isinstance(self.valid, tuple | list) and len(self.valid) == 2
        ends = ends and all(isinstance(end, int | float) for end in self.valid) and self.valid[0] < self.valid[1]
        check(ends, "valid", self.valid, "must be two numbers in order, or None")

    def _question(self, image: Tensor, label: int, radius: float, norm: Norm, allowance: float) -> RegionQuestion:
        """A checked question about one input."""
        check(allowance >= 0.0, "allowance", allowance, "must not be negative or NaN")
        check_class_label("label", label, self.classes)
        if self.inputs not in (None, image.numel()) or not bool(torch.isfinite(image).all()):
            raise InputError(f"x: shape {tuple(image.shape)}; needs {self.inputs} finite numbers")
        point = image.detach().double().cpu().reshape(-1)
        low, high = float(point.min()), float(point.max())
        if self.valid is not None and not self.valid[0] <= low <= high <= self.valid[1]:
            raise InputError(f"x: pixels span [{low:.3g}, {high:.3g}]; they must lie in {self.valid}")
        region = Region.ball(point, radius) if norm == "2" else Region.box(point, radius, self.valid)
        return RegionQuestion(
            x=point, label=label, radius=radius, region=region, allowance=allowance, shape=tuple(image.shape), valid=self.valid
        )  # fmt: skip

    @abstractmethod
    def answers(self, questions: list[RegionQuestion], last: int, seconds: float) -> list[Verdict]:
        """Verdicts on checked questions, with the time that each took.

        Args:
            questions: all of one norm.
            last: place of the last step to try.
            seconds: per question, after which to give up.
        """


def check_class_label(argument: str, value: object, classes: int) -> None:
    """Raise an `InputError` unless a value is one of the classes 0 to classes − 1."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    check(whole and 0 <= int(value) < classes, argument, value, f"must be an integer in 0…{classes - 1}")  # type: ignore[call-overload]


def _listed(argument: str, given: Any) -> list[Any]:
    """One number for each input, of a sequence or of a tensor with one dimension."""
    if isinstance(given, Tensor) and given.ndim == 1 and not given.is_meta:
        return list(given.tolist())
    check(
        isinstance(given, Sequence) and not isinstance(given, str), argument, given, "must have a number for each input"
    )
    return list(given)

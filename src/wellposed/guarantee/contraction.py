"""Banach's theorem: a map that contracts in the Euclidean norm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_type_hints

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.errors import check, check_kind
from wellposed.guarantee.base import Guarantee
from wellposed.guarantee.plan import Plan
from wellposed.numerics.euclidean import euclidean
from wellposed.numerics.outward import enlarged, unit_of
from wellposed.operators import Operator


@dataclass(frozen=True)
class Contraction(Guarantee):
    """The map contracts in the Euclidean norm: ‖f(z) − f(z')‖ ≤ factor·‖z − z'‖ (Banach's theorem).

    Args:
        factor: the contraction factor, in [0, 1).
        evaluation_error: relative rounding error of one evaluation of f, as a multiple of the norm of its value;
            by default 16 units of the last place. The error bound is as good as this number.
    """

    factor: float
    evaluation_error: float | None = None
    theorem: str = "Banach fixed-point theorem, Euclidean norm"
    lipschitz_theorem: str = "Banach fixed-point theorem: 1/(1 − factor)"

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(Contraction).items():
            check_kind(name, getattr(self, name), hint)
        error = self.evaluation_error
        check(error is None or 0.0 <= error < math.inf, "evaluation_error", error, "must be finite and not negative")
        check(0.0 <= self.factor < 1.0, "factor", self.factor, "a contraction factor lies in [0, 1)")

    @override
    def picard_plan(self) -> Plan:
        return Plan(1.0, self.factor)

    @override
    def error_bound(self, point: Tensor, image: Tensor) -> Tensor:
        unit = unit_of(image.dtype)
        relative = 32.0 * unit if self.evaluation_error is None else self.evaluation_error
        distance = enlarged(euclidean(image - point), max(image[0].numel(), 8), unit)
        rounding = relative * torch.maximum(euclidean(image), euclidean(point))
        return (self.factor * distance + rounding) / (1.0 - self.factor)

    def defect_bound(self, defect: Tensor, size: Tensor) -> Tensor:
        """``‖defect‖/(1 − factor)``, for activations with slopes of at most one."""
        return size / (1.0 - self.factor)

    @override
    def offset_lipschitz(self) -> float:
        return enlarged(1.0 / (1.0 - self.factor), 2)

    @override
    def on(self, operator: Operator) -> Guarantee:
        return self

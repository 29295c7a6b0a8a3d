"""Componentwise sensitivity from the condition μ_∞,η(W) < 1 (Jafarpour, Davydov, Proskurnikov & Bullo 2021)."""

from __future__ import annotations

from collections.abc import Hashable
from functools import cached_property

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.errors import checked_fields
from wellposed.guarantee.base import Comparison, Guarantee
from wellposed.guarantee.majorant import Majorant, gaps, majorant
from wellposed.guarantee.plan import Algorithms, Plan, S
from wellposed.guarantee.sensitivity import Sensitivity
from wellposed.guarantee.typical import Typical, spectral_radius
from wellposed.operators import Operator


@checked_fields
class Componentwise(Sensitivity):
    """Existence, uniqueness and componentwise sensitivity from μ_∞,η(W) < 1 for some weights η.

    Plans are about the norm max |z_i|/v_i.

    Args:
        operator: W.
        slopes: least and largest slope of the activation.
    """

    theorem = "Jafarpour, Davydov, Proskurnikov & Bullo 2021: μ_∞,η(W) < 1"
    lipschitz_theorem = "componentwise sensitivity |dz| ≤ (I − M(W))⁻¹|dq|"

    def __init__(self, operator: Operator, slopes: tuple[float, float] = (0.0, 1.0)) -> None:
        self.operator = operator
        self._slopes = slopes

    @override
    def preferred(self, among: Algorithms[S]) -> S:
        return among.forward_backward if self._is_monotone else among.averaged  # splittings need slopes in [0, 1]

    @property
    def _is_monotone(self) -> bool:
        return self._slopes[0] >= 0.0 and self._slopes[1] <= 1.0

    @property
    @override
    def _about(self) -> Hashable:
        return type(self).__name__, self._slopes

    @cached_property
    def majorant(self) -> Majorant:
        """The proof for the operator's numbers."""
        operator = self.operator
        slopes = self._slopes
        return operator.remembered(("majorant", slopes), lambda: majorant(operator.dense(), slopes), oriented=True)

    @override
    def comparison(self) -> Comparison | None:
        stored = self.operator.matrix()
        if stored is None:
            return None
        off, proof = stored.detach().double().cpu().abs().fill_diagonal_(0.0), self.majorant
        diagonal = torch.diag(gaps(proof.diagonal, self._slopes))
        return Comparison(proof.weights, self._scales, (proof.sensitivity, diagonal - off, diagonal + off))

    def diagonal_metric(self) -> Tensor | None:
        """w/v for v, w > 0 with Av > 0 and Aᵀw > 0, A = I − M(W): diag(w/v)·A has a positive definite symmetric part."""
        matrix = self.operator.dense().detach().double().cpu()
        comparison = -matrix.abs()
        comparison.diagonal().copy_(1.0 - matrix.diagonal())
        ones = torch.ones(len(matrix), 1, dtype=torch.float64, device="cpu")
        right, left = (torch.linalg.solve_ex(part, ones)[0][:, 0] for part in (comparison, comparison.t()))
        ratio = left / right
        return ratio if bool((ratio > 0.0).all()) else None

    @override
    def averaged_plan(self, damping: float | None = None) -> Plan | None:
        """For dampings up to 1/(1 − min(eW_ii, 0)), e a slope."""
        diagonal = self.majorant.diagonal
        largest = 1.0 / (1.0 - min(0.0, *(float((end * diagonal).min()) for end in self._slopes)))
        damping = largest if damping is None else damping
        factor = 1.0 - damping * (1.0 - self.majorant.sloped_log_norm)
        return self._plan(damping, factor) if damping <= largest else None

    @override
    def forward_backward_plan(self, step: float | None = None) -> Plan | None:
        """With the step 1/(1 − W_ii) of every coordinate, with which the iteration eliminates the diagonal."""
        if step is not None or not self._is_monotone:
            return None
        operator, proof = self.operator, self.majorant

        def compute() -> Plan | None:
            return self._plan((1.0 / (1.0 - proof.diagonal)).to(operator.tensors[0]), proof.jacobi)

        return operator.remembered(("elimination", self._about), compute, oriented=True)

    @override
    def reflected_plan(self, step: float | None = None, relaxation: float = 1.0) -> Plan | None:
        """The reflected resolvent of I − W is nonexpansive up to the step 1/(1 − min W_ii)."""
        largest = self.suggested_step()
        if largest is None:
            return None
        alpha = largest if step is None else step
        gap = alpha * (1.0 - self.majorant.log_norm)
        factor = 1.0 - relaxation + relaxation * (1.0 - gap) / (1.0 + gap)
        return self._plan(alpha, factor) if alpha <= largest else None

    @override
    def suggested_step(self) -> float | None:
        """The largest step at which I − W does not amplify."""
        return 1.0 / (1.0 - float(self.majorant.diagonal.min())) if self._is_monotone else None

    @override
    def estimated(self) -> Guarantee:
        """W's diagonal gives the gaps, and the rest of W, divided by them, drives."""
        matrix = self.operator.matrix()
        if matrix is None:
            return self
        operator = self.operator

        @torch.no_grad()
        def compute() -> tuple[Tensor, float]:
            stored = matrix.detach()
            room = gaps(stored.diagonal(), self._slopes)
            off = stored.abs().fill_diagonal_(0.0)
            return room, spectral_radius(lambda vector: torch.mv(off, vector) / room, torch.ones_like(room))

        room, radius = operator.remembered(("typical", self._slopes), compute)
        return Typical(self, operator, room, radius)

    @override
    def on(self, operator: Operator) -> Componentwise:
        found = object.__new__(Componentwise)  # at every solve, of what was checked before
        found.operator, found._slopes = operator, self._slopes
        return found

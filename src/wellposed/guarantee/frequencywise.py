"""Strong monotonicity of maps that convolve circularly, proved frequency by frequency."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.errors import GuaranteeError, InputError
from wellposed.guarantee.monotone import StronglyMonotone
from wellposed.guarantee.plan import Plan
from wellposed.numerics.convolution_norms import least_eigenvalues
from wellposed.numerics.euclidean import euclidean
from wellposed.numerics.outward import enlarged, reduced, unit_of
from wellposed.operators.base import Operator


class FrequencywiseMonotone(StronglyMonotone):
    """Strong monotonicity with a constant that is proved at every stored frequency, when it is needed.

    Frequencies that are their own mirror images count with the mean of what is stored for both, which is no smaller.

    Args:
        operator: W; it knows its `symmetric_parts`.
        nominal: the constant that W has by construction, but for rounding; None where none is known.
    """

    theorem = "Winston & Kolter 2020, Theorem 1, for a circular convolution"

    def __init__(self, operator: Operator, nominal: float | None = None) -> None:
        self.operator, self.nominal = operator, nominal

    @override
    def estimated(self) -> Self:
        found = type(self)(self.operator, self.nominal)
        found.stops_by_changes = True
        if self.nominal is not None:
            found.__dict__["m"] = self.nominal
        return found

    @cached_property
    def m(self) -> float:  # type: ignore[override]  # on demand: it needs numbers, not graph tensors
        """The least eigenvalue of the Hermitian parts, from below."""
        operator = self.operator

        def prove() -> float:
            if not all(bool(torch.isfinite(torch.abs(tensor)).all()) for tensor in operator.tensors):
                raise InputError("W: has NaN or infinite entries, for which nothing is promised")
            return min(float(least_eigenvalues(part).amin()) - error for part, error in operator.symmetric_parts())

        proved = operator.remembered("monotonicity", prove)
        if not proved > 0.0:
            raise GuaranteeError(
                f"W: I − W is not monotone in these numbers (proved only {proved:.3g}): lost to rounding at these weights; "
                "use float64, a larger margin, or smaller weights"
            )
        return proved

    @property
    @override
    def smoothness(self) -> float:  # cheaper for a convolution
        return self.operator.displacement_norm()

    def offset_lipschitz(self) -> float:
        """1/m."""
        return enlarged(1.0 / self.m, 1)

    def on(self, operator: Operator) -> Self:
        """The transpose, and float64 copies, have the same constant."""
        found = type(self)(operator, self.nominal)
        if "m" in self.__dict__:
            found.__dict__["m"] = self.m
        return found


class MultiScaleStronglyMonotone(FrequencywiseMonotone):
    """Strong monotonicity of a block lower triangular map, from blocks on its diagonal."""

    theorem = "Winston & Kolter 2020, Theorem 1, for convolutions on several scales"


class ScaledStronglyMonotone(FrequencywiseMonotone):
    """Strong monotonicity of Λ(I − W) in the ordinary inner product, for the `scaling` Λ of W.

    The equation is 0 ∈ Λ(I − W)z − Λq + Λ∂f(z), and Λ∂f is monotone too, as f is a sum over coordinates. For the adjoint
    equation, Λ⁻¹ times its solution solves such an equation too.
    """

    theorem = "Revay, Wang & Manchester 2020, Theorem 1: splitting with steps in proportion to a diagonal metric"
    lipschitz_theorem = "strong monotonicity of Λ(I − W): max Λ/m"

    @property
    def _scale(self) -> Tensor:
        """Ψ = Λ⁻¹ as it is stored."""
        assert self.operator.scale is not None
        return self.operator.scale.detach()

    @override
    def diagonal_metric(self) -> Tensor:
        """Λ, and its inverse for the adjoint equation."""
        scale = self._scale.double().expand(self.operator.state_shape).flatten()
        return scale if self.operator.transposed else 1.0 / scale

    @cached_property
    def _extremes(self) -> tuple[float, float]:
        """Smallest and largest Λ."""
        scale = self._scale.double()
        if not bool((torch.isfinite(scale) & (scale > 0.0)).all()):
            raise InputError(
                "psi: its exponential is not positive and finite in this dtype; nothing is promised for it"
            )
        return reduced(1.0 / float(scale.amax()), 1), enlarged(1.0 / float(scale.amin()), 1)

    @cached_property
    def _distortion(self) -> float:
        """Plans are about ‖·‖₂ and, for the adjoint equation, about ‖Λ⁻¹·‖₂."""
        least, largest = self._extremes
        return largest / least if self.operator.transposed else 1.0

    @override
    def forward_backward_plan(self, step: float | None = None) -> Plan | None:
        """Steps are times Λ."""
        found = super().forward_backward_plan(step)
        return None if found is None else replace(found, step=found.step / self._scale)

    def error_bound(self, point: Tensor, image: Tensor) -> Tensor:
        """The bound of a defect: ``image`` solves the equation exactly for q + W(point − image)."""
        defect = self.operator.apply(point - image)
        return self.defect_bound(defect, euclidean(defect))

    def defect_bound(self, defect: Tensor, size: Tensor) -> Tensor:
        """``‖Λ·defect‖₂/m``, and ``max Λ·‖defect‖₂/m`` for the adjoint equation."""
        if self.operator.transposed:
            return self.size_bound(defect, size)
        rounding = (size - euclidean(defect)).clamp_min(0.0)
        weighed = enlarged(euclidean(defect / self._scale), 2, unit_of(defect.dtype))
        return (weighed + self._extremes[1] * rounding) / self.m

    @override
    def size_bound(self, like: Tensor, size: Tensor) -> Tensor:
        return self._extremes[1] * size / self.m

    @override
    def size_factor(self, like: Tensor) -> float:
        return self._extremes[1] / self.m

    @override
    def rounding(self, operator: Operator, state_norm: Tensor, offset_norm: Tensor) -> Tensor:
        """As `defect_bound` weighs it with the largest Λ, its norm with the true Λ over that."""
        plain = super().rounding(operator, state_norm, offset_norm)
        weighed = operator.weighed_rounding(state_norm, offset_norm)
        if weighed is None or operator.transposed:
            return plain
        return torch.minimum(plain, enlarged(weighed / self._extremes[1], 1))

    def offset_lipschitz(self) -> float:
        """Max Λ/m."""
        return enlarged(self._extremes[1] / self.m, 1)

"""Strong monotonicity of I − W, in the Euclidean norm or in a diagonal metric."""

from __future__ import annotations

import math
import sys
from functools import cached_property

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.errors import GuaranteeError, check, checked_fields
from wellposed.guarantee.base import Guarantee
from wellposed.guarantee.plan import Algorithms, Plan, S
from wellposed.numerics.euclidean import euclidean
from wellposed.numerics.outward import enlarged, enlarged_entries, unit_of
from wellposed.numerics.verified import spectral_norm_upper_bound, symmetric_part_lower_bound
from wellposed.operators import Operator


@checked_fields
class StronglyMonotone(Guarantee):
    """``Λ^½(I − W)Λ^−½ ⪰ m·I`` with an activation of slopes in [0, 1] (Winston & Kolter 2020, Theorem 1; Revay et al. 2020).

    In the inner product ⟨a, b⟩ = aᵀΛb the resolvent of the activation does not change, so the same splittings apply.

    Args:
        operator: W; its ``metric`` is the diagonal of Λ.
        m: a strong-monotonicity constant that the numbers in ``operator`` satisfy, rounding included.
    """

    theorem = "Winston & Kolter 2020, Theorem 1: strongly monotone operator splitting"
    lipschitz_theorem = "Pabbaraju, Winston & Kolter 2021, Theorem 1: 1/m"

    def __init__(self, operator: Operator, m: float) -> None:
        check(m > 0.0 and math.isfinite(m), "m", m, "the strong-monotonicity constant must be positive and finite")
        self.operator = operator
        self.m = m

    @cached_property
    def smoothness(self) -> float:
        """Upper bound of L = ‖Λ^½(I − W)Λ^−½‖₂ for the numbers in the operator (verified in float64)."""
        displacement = scaled_displacement(self.operator.dense(), self.operator.metric)
        return enlarged_entries(spectral_norm_upper_bound(displacement), len(displacement) ** 0.5, 8)

    @cached_property
    def _distortion(self) -> float:
        """√(largest/smallest metric): what passing between the norms can cost."""
        metric = self.operator.metric
        if metric is None:
            return 1.0
        found = self.operator.remembered("distortion", lambda: float((metric.amax() / metric.amin()).sqrt()))
        return enlarged(found, 2)

    @override
    def preferred(self, among: Algorithms[S]) -> S:
        return among.peaceman_rachford

    @override
    def forward_backward_plan(self, step: float | None = None) -> Plan | None:
        m, smooth = self.m, self.smoothness
        alpha = m / smooth**2 if step is None else step
        square = 1.0 - 2.0 * alpha * m + (alpha * smooth) ** 2
        return Plan(alpha, math.sqrt(square), self._distortion) if square < 1.0 else None

    @override
    def reflected_plan(self, step: float | None = None, relaxation: float = 1.0) -> Plan:
        """Lions & Mercier 1979: the reflected resolvent of a strongly monotone Lipschitz operator contracts."""
        m, smooth = self.m, self.smoothness
        alpha = 1.0 / math.sqrt(m * smooth) if step is None else step
        factor = math.sqrt(max(1.0 - 4.0 * alpha * m / (1.0 + alpha * smooth) ** 2, 0.0))
        return Plan(alpha, 1.0 - relaxation + relaxation * factor, self._distortion)

    @override
    def suggested_step(self) -> float:
        """Peaceman–Rachford converges at every step; the best one follows the typical singular value of I − W.

        1/√(mL) is optimal for the worst case, but m may be far below the spectrum that a trained W really has, where
        that step is many times too long or short; 1 over the root-mean-square singular value costs n² to find.
        """
        typical = self.operator.displacement_norm_estimate()
        if math.isinf(typical):  # squares overflowed, as in float32 they do for entries of W from 10^19 on
            typical = min(self.operator.in_float64().displacement_norm_estimate(), sys.float_info.max)
        return 1.0 / max(typical, self.m)

    @override
    def diagonal_metric(self) -> Tensor:
        metric = self.operator.metric
        return (
            torch.ones(math.prod(self.operator.state_shape), dtype=torch.float64, device="cpu")
            if metric is None
            else metric
        )

    def _weigh(self, value: Tensor) -> Tensor:
        """‖value‖_Λ/√λ_min per sample: never below the Euclidean norm."""
        metric = self.operator.metric
        if metric is None:
            return euclidean(value)
        key = ("weights of the metric", value.dtype, value.device)
        weights = self.operator.remembered(key, lambda: (metric / metric.amin()).sqrt().to(value), oriented=True)
        return enlarged(euclidean(value * weights), 3, unit_of(value.dtype))

    def error_bound(self, point: Tensor, image: Tensor) -> Tensor:
        """``‖W(point − image)‖_Λ / m``: from the monotonicity of ∂f and the strong monotonicity of I − W.

        Subtract the inclusions W·point + q − image ∈ ∂f(image) and Wz* + q − z* ∈ ∂f(z*), and pair with image − z*.
        """
        return self._weigh(self.operator.apply(point - image)) / self.m

    def defect_bound(self, defect: Tensor, size: Tensor) -> Tensor:
        """``‖defect‖_Λ / m``: the equilibrium is 1/m-Lipschitz in q, as in the proof of `error_bound`."""
        if self.operator.metric is None:
            return size / self.m
        rounding = (size - euclidean(defect)).clamp_min(0.0)
        return (self._weigh(defect) + self._distortion * rounding) / self.m

    @override
    def size_bound(self, like: Tensor, size: Tensor) -> Tensor:
        return self._distortion * size / self.m

    @override
    def size_factor(self, like: Tensor) -> float:
        return self._distortion / self.m

    @override
    def offset_lipschitz(self) -> float:
        return enlarged(self._distortion / proved_monotonicity(self.operator.dense(), self.operator.metric), 1)

    @override
    def estimated(self) -> Guarantee:
        """The promise with the constant m that it has, for solves that stop by the changes of their iterates.

        ‖defect‖/m may be many times the error: hardly any defect is in the direction that m is about.
        """
        return ByChanges(self.operator, self.m)

    @override
    def on(self, operator: Operator) -> StronglyMonotone:
        return StronglyMonotone(operator, self.m)


class ByChanges(StronglyMonotone):
    """Strong monotonicity for solves without evidence, see `Guarantee.stops_by_changes`."""

    stops_by_changes = True

    def __init__(self, operator: Operator, m: float) -> None:  # at every solve, of numbers that were checked before
        self.operator, self.m = operator, m


class ProvedMonotone(StronglyMonotone):
    """Strong monotonicity with the constant that can be proved for the stored numbers, worked out when it is needed.

    Args:
        operator: W; its ``metric`` is the diagonal of Λ.
        nominal: the constant that W has by construction, but for rounding; None where none is known.
    """

    theorem = "Revay, Wang & Manchester 2020, Theorem 1: splitting in a diagonal metric"
    lipschitz_theorem = "strong monotonicity in a diagonal metric: √cond(Λ)/m"

    def __init__(self, operator: Operator, nominal: float | None = None) -> None:
        self.operator, self.nominal = operator, nominal

    @override
    def estimated(self) -> Guarantee:
        return super().estimated() if self.nominal is None else ByChanges(self.operator, self.nominal)

    @cached_property
    @override
    def m(self) -> float:  # type: ignore[override]  # on demand: it needs numbers, not graph tensors
        operator = self.operator
        return operator.remembered("monotonicity", lambda: proved_monotonicity(operator.dense(), operator.metric))

    def on(self, operator: Operator) -> StronglyMonotone:
        """The transpose in the metric Λ⁻¹, and float64 copies, have the same constant."""
        if "m" in self.__dict__:
            known = ProvedMonotone(operator, self.nominal)
            known.__dict__["m"] = self.m
            return known
        return ProvedMonotone(operator, self.nominal)


def scaled_displacement(matrix: Tensor, metric: Tensor | None) -> Tensor:
    """``Λ^½(I − W)Λ^−½`` in float64 on the CPU; each entry errs by at most eight roundings."""
    stored = matrix.detach().double().cpu()
    displacement = torch.eye(stored.shape[0], dtype=torch.float64, device="cpu") - stored
    if metric is None:
        return displacement
    root = metric.cpu().sqrt()
    return displacement * root[:, None] / root


def proved_monotonicity(matrix: Tensor, metric: Tensor | None = None) -> float:
    """A constant m for which ``Λ^½(I − W)Λ^−½ ⪰ m·I`` is proved for the stored numbers of W, close to the largest.

    Raises:
        GuaranteeError: no positive constant could be proved.
        InputError: NaN or infinite entries.
    """
    displacement = scaled_displacement(matrix, metric)
    proved = symmetric_part_lower_bound(displacement, roundings=1 if metric is None else 8)
    if proved <= 0.0:
        raise GuaranteeError(
            f"W: I − W is not monotone in these numbers (proved only {proved:.3g}): lost to rounding at these weights; "
            "use float64, a larger m, or smaller weights"
        )
    return proved

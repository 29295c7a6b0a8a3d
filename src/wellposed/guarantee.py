"""What a constraint promises, in the form that solvers and certificates read.

A guarantee states, for one operator, that the equilibrium exists and is unique; which step each admissible solver
should take and how fast it then contracts; and how far an approximate equilibrium can be from the true one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from wellposed.errors import GuaranteeError, check
from wellposed.norms import euclidean
from wellposed.operators import Operator
from wellposed.verified import spectral_norm_upper_bound, symmetric_part_lower_bound


@dataclass(frozen=True)
class Plan:
    """How one algorithm runs under a guarantee.

    Attributes:
        step: the step size (a damping, for the averaged iteration).
        factor: upper bound of the contraction per iteration in the Euclidean norm of the algorithm's own variable.
    """

    step: float
    factor: float

    def iterations(self, first_change: float, tolerance: float) -> int:
        """Iterations after which the distance to the fixed point is surely at most ``tolerance``.

        Args:
            first_change: Euclidean distance between the first two iterates.
            tolerance: the distance wanted, in the same norm.
        """
        start = first_change / (1.0 - self.factor)
        if start <= tolerance:
            return 1
        return 1 + math.ceil(math.log(tolerance / start) / math.log(self.factor))


class Guarantee(ABC):
    """Existence, uniqueness, convergence and an a-posteriori error bound for the equilibrium of one map.

    Attributes:
        theorem: name and source of the statement that the equilibrium exists, is unique and is reached.
        lipschitz_theorem: name and source of the statement behind `offset_lipschitz`.
        preferred: the algorithm that this guarantee serves best.
    """

    theorem: str
    lipschitz_theorem: str
    preferred: str

    @abstractmethod
    def plan(self, algorithm: str, step: float | None = None) -> Plan | None:
        """Step and proven contraction of an algorithm, or None where nothing is proven."""

    @abstractmethod
    def error_bound(self, point: Tensor, image: Tensor) -> Tensor:
        """Bound on the Euclidean distance from ``image`` = f(``point``) to the equilibrium, one value per sample.

        It holds in exact arithmetic, and for `Contraction` up to the evaluation error stated there.

        Args:
            point: shape (batch, *state).
            image: f(point), same shape.
        """

    @abstractmethod
    def defect_bound(self, defect: Tensor, size: Tensor) -> Tensor:
        """Bound on ‖z − z*‖₂, one value per sample, for a z that solves ``z = σ(Wz + q + defect)`` exactly.

        Args:
            defect: shape (batch, *state).
            size: at least the Euclidean norm of each sample's defect, shape (batch,); larger if ``defect`` is inexact.
        """

    @abstractmethod
    def on(self, operator: Operator) -> Guarantee:
        """The same promise for the transpose, another precision or another copy of the operator it was made for."""

    @abstractmethod
    def offset_lipschitz(self) -> float:
        """Euclidean Lipschitz constant of the equilibrium as a function of the offset q, proved for the stored W."""

    def suggested_step(self, algorithm: str) -> float | None:
        """A step that runs well in practice where any step is safe; None to use the one of `plan`."""
        return None


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
    preferred: str = "picard"

    def __post_init__(self) -> None:
        check(0.0 <= self.factor < 1.0, "factor", self.factor, "a contraction factor lies in [0, 1)")

    def plan(self, algorithm: str, step: float | None = None) -> Plan | None:  # noqa: D102
        if algorithm == "picard":
            return Plan(1.0, self.factor)
        if algorithm == "averaged":
            damping = 1.0 if step is None else step
            return Plan(damping, 1.0 - damping + damping * self.factor)
        return None

    def error_bound(self, point: Tensor, image: Tensor) -> Tensor:  # noqa: D102
        eps = torch.finfo(image.dtype).eps
        relative = 16.0 * eps if self.evaluation_error is None else self.evaluation_error
        distance = euclidean(image - point) * (1.0 + eps * max(8.0, image[0].numel()))
        rounding = relative * torch.maximum(euclidean(image), euclidean(point))
        return (self.factor * distance + rounding) / (1.0 - self.factor)

    def defect_bound(self, defect: Tensor, size: Tensor) -> Tensor:
        """``‖defect‖/(1 − factor)``, for activations with slopes of at most one."""
        return size / (1.0 - self.factor)

    def offset_lipschitz(self) -> float:  # noqa: D102
        return 1.0 / (1.0 - self.factor) * (1.0 + 1e-15)

    def on(self, operator: Operator) -> Guarantee:  # noqa: D102
        return self


class StronglyMonotone(Guarantee):
    """``I − W ⪰ m·I`` with an activation of slopes in [0, 1] (Winston & Kolter 2020, Theorem 1).

    Args:
        operator: W.
        m: a strong-monotonicity constant that the numbers in ``operator`` satisfy, rounding included.
    """

    theorem = "Winston & Kolter 2020, Theorem 1: strongly monotone operator splitting"
    lipschitz_theorem = "Pabbaraju, Winston & Kolter 2021, Theorem 1: 1/m"
    preferred = "peaceman_rachford"

    def __init__(self, operator: Operator, m: float) -> None:
        check(m > 0.0 and math.isfinite(m), "m", m, "the strong-monotonicity constant must be positive and finite")
        self.operator = operator
        self.m = m

    @cached_property
    def smoothness(self) -> float:
        """Upper bound of L = ‖I − W‖₂ for the numbers in the operator (verified in float64)."""
        matrix = self.operator.dense().detach().double().cpu()
        displacement = torch.eye(matrix.shape[0], dtype=torch.float64) - matrix
        return spectral_norm_upper_bound(displacement) * (1.0 + 1e-15)  # the subtraction above rounds once

    def plan(self, algorithm: str, step: float | None = None) -> Plan | None:  # noqa: D102
        m, smooth = self.m, self.smoothness
        if algorithm == "forward_backward":
            alpha = m / smooth**2 if step is None else step
            square = 1.0 - 2.0 * alpha * m + (alpha * smooth) ** 2
            return Plan(alpha, math.sqrt(square)) if square < 1.0 else None
        if algorithm in ("peaceman_rachford", "douglas_rachford"):
            alpha = 1.0 / math.sqrt(m * smooth) if step is None else step
            # Lions & Mercier 1979: the reflected resolvent of a strongly monotone Lipschitz operator contracts.
            factor = math.sqrt(max(1.0 - 4.0 * alpha * m / (1.0 + alpha * smooth) ** 2, 0.0))
            return Plan(alpha, factor if algorithm == "peaceman_rachford" else 0.5 * (1.0 + factor))
        return None

    def suggested_step(self, algorithm: str) -> float | None:
        """Peaceman–Rachford converges at every step; the best one follows the typical singular value of I − W.

        1/√(mL) is optimal for the worst case, but m may be far below the spectrum that a trained W really has, where
        that step is many times too long or short; 1 over the root-mean-square singular value costs n² to find.
        """
        if algorithm not in ("peaceman_rachford", "douglas_rachford"):
            return None
        return 1.0 / max(self.operator.displacement_norm_estimate(), self.m)

    def error_bound(self, point: Tensor, image: Tensor) -> Tensor:
        """``‖W(point − image)‖ / m``: from the monotonicity of ∂f and the strong monotonicity of I − W.

        Subtract the inclusions W·point + q − image ∈ ∂f(image) and Wz* + q − z* ∈ ∂f(z*), and pair with image − z*.
        """
        return euclidean(self.operator.apply(point - image)) / self.m

    def defect_bound(self, defect: Tensor, size: Tensor) -> Tensor:
        """``‖defect‖ / m``: the equilibrium is 1/m-Lipschitz in q, as in the proof of `error_bound`."""
        return size / self.m

    def offset_lipschitz(self) -> float:  # noqa: D102
        return 1.0 / proved_monotonicity(self.operator.dense(), self.m) * (1.0 + 1e-15)

    def on(self, operator: Operator) -> StronglyMonotone:  # noqa: D102
        return StronglyMonotone(operator, self.m)


def proved_monotonicity(matrix: Tensor, m: float) -> float:
    """The largest constant up to ``m`` for which ``I − W ⪰ constant·I`` is proved for the stored numbers of W.

    Raises:
        GuaranteeError: no positive constant could be proved.
        InputError: NaN or infinite entries.
    """
    stored = matrix.detach().double().cpu()
    displacement = torch.eye(stored.shape[0], dtype=torch.float64) - stored
    # Subtracting from the identity rounds the diagonal once.
    proved = symmetric_part_lower_bound(displacement) - 2.0**-52 * float(displacement.diagonal().abs().max())
    if proved <= 0.0:
        raise GuaranteeError(
            f"m={m!r}: I − W ⪰ m·I is lost to rounding at these weights (proved only {proved:.3g}); "
            "use float64, a larger m, or smaller weights"
        )
    return min(proved, m)

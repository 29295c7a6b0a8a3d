"""Componentwise sensitivity: I − M(W) is an M-matrix, where M(W) keeps W's diagonal and takes absolute values off it.

This is the condition μ_∞,η(W) < 1 for some weights η (Jafarpour, Davydov, Proskurnikov & Bullo 2021). With slopes in [0, 1],
a change δ of the offset moves the equilibrium by at most G|δ| in every component, ``G = (I − M(W))⁻¹ ≥ 0``: coordinate i of
``dz = E(W dz + δ)`` gives (1 − e_i W_ii)|dz_i| ≤ e_i(Σ_j≠i |W_ij||dz_j| + |δ_i|), and e/(1 − e·W_ii) increases in e.

With slopes in [a, b], of any sign, the same argument needs 1 − eW_ii > 0 for both ends e, and has
``G = (diag(g) − |W_off|)⁻¹`` with g_i = min over both ends of (1 − eW_ii)/|e|.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.errors import GuaranteeError
from wellposed.guarantee.base import Comparison, Guarantee, Plan
from wellposed.numerics.euclidean import euclidean, underflow
from wellposed.numerics.outward import rounding_constant
from wellposed.numerics.verified import spectral_norm_upper_bound, to_float64
from wellposed.operators import Operator
from wellposed.operators.dense import Dense


@dataclass(frozen=True, eq=False)
class Majorant:
    """What was proved about one W; tensors are float64, on the CPU.

    Attributes:
        sensitivity: an upper bound of G in every entry, shape (n, n).
        weights: v > 0 with (I − M(W))v > 0: the weights of the norms max |z_i|/v_i below; close to the Perron vector.
        log_norm: upper bound of μ, the log norm of W in that norm.
        sloped_log_norm: upper bound, below one, of the log norm of EW in that norm, for every diagonal E of slopes.
        jacobi: upper bound, in that norm, of the contraction when every coordinate's own equation is solved exactly; for
            slopes in [0, 1] that is a forward–backward step 1/(1 − W_ii).
        diagonal: of W, shape (n,).
    """

    sensitivity: Tensor
    weights: Tensor
    log_norm: float
    sloped_log_norm: float
    jacobi: float
    diagonal: Tensor


def majorant(matrix: Tensor, slopes: tuple[float, float] = (0.0, 1.0)) -> Majorant:
    """Prove that diag(g) − |W_off|, which is I − M(W) for slopes in [0, 1], is an M-matrix for the stored numbers of W.

    A positive vector v that it maps to a positive one is the whole proof, so v may come from anywhere.

    Raises:
        GuaranteeError: no such vector was found.
        InputError: NaN or infinite entries.
    """
    # By torch, not numpy: see `verified.eigenvalues`.
    stored = torch.from_numpy(to_float64(matrix, "W"))
    size = len(stored)
    diagonal = stored.diagonal().clone()
    below_one = _gaps(diagonal, slopes)
    if float(below_one.amin()) <= 0.0:
        raise GuaranteeError(
            "W: a diagonal entry is too large, for slopes of this activation; the condition μ∞(W) < 1 fails or is lost to "
            "rounding"
        )
    positive = stored.abs().fill_diagonal_(0.0)
    away = torch.diag(below_one) - positive
    inverse = torch.linalg.inv_ex(away)[0]
    weights = inverse.abs().sum(1)
    for _ in range(30):  # towards the Perron vector of the Jacobi matrix, where the factor below is smallest
        weights = weights + torch.mv(positive, weights) / below_one
        weights = weights / weights.amax()
    weights = weights.nan_to_num(nan=1.0).clamp_min(1e-12)
    rounding, lost = rounding_constant(size + 4), underflow(torch.float64, 1, size)
    through = torch.mv(positive, weights)
    proved = below_one * weights - through - rounding * (below_one * weights + through) - lost
    if not bool((proved > 0.0).all()):
        raise GuaranteeError("W: I − M(W) is not an M-matrix in these numbers; use float64 or a smaller mu")
    # G = X + G·R with R = I − (I − M)X; column j of G|R| is at most v·max_i |R_ij|/proved_i.
    identity = torch.eye(size, dtype=torch.float64)
    remainder = (identity - away @ inverse).abs() + rounding * (away.abs() @ inverse.abs() + identity) + lost
    sensitivity = inverse.abs() + torch.outer(weights, (remainder / proved[:, None]).amax(0))
    outward = 1.0 + 2.0 * rounding
    off = through / weights * outward
    blurred = off + 2.0 * rounding * diagonal.abs()
    sloped = max(float((end * diagonal + abs(end) * blurred).amax()) for end in slopes)  # convex in the slope
    return Majorant(
        sensitivity * outward + lost, weights, float((diagonal + blurred).amax()), sloped + 1e-15,
        float((off / below_one).amax()) * outward, diagonal,
    )  # fmt: skip


def _gaps(diagonal: Tensor, slopes: tuple[float, float]) -> Tensor:
    """g_i, rounded down."""
    if slopes == (0.0, 1.0):
        return 1.0 - diagonal  # rounds once
    least = torch.full_like(diagonal, torch.inf)
    for end in slopes:
        if end != 0.0:
            gap = (1.0 - end * diagonal) / abs(end)
            least = torch.minimum(least, gap - 1e-15 * (1.0 + (end * diagonal).abs()) / abs(end))
    return least


@dataclass(frozen=True, eq=False)
class NormProof:
    """Vectors that prove ‖A⁻¹D‖₂ ≤ value for an M-matrix A: start > 0, A·reach ≥ D·start, Aᵀ·back ≥ reach, D·back ≤ value²·start.

    Attributes:
        value: the bound.
        start: shape of the state.
        reach: likewise.
        back: likewise.
    """

    value: float
    start: Tensor
    reach: Tensor
    back: Tensor


class Componentwise(Guarantee):
    """Existence, uniqueness and componentwise sensitivity from μ_∞,η(W) < 1.

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
    def comparison(self) -> Comparison | None:
        if not isinstance(self.operator, Dense):
            return None
        matrix, proof = self.operator.dense().detach().double().cpu(), self.majorant
        diagonal, off = torch.diag(_gaps(matrix.diagonal(), self._slopes)), matrix.clone().fill_diagonal_(0.0).abs()
        ones = torch.ones(len(matrix), dtype=torch.float64)
        return Comparison(proof.weights, ones, (proof.sensitivity, diagonal - off, diagonal + off))

    @property
    def preferred(self) -> str:  # type: ignore[override]  # splittings need slopes in [0, 1]  # noqa: D102
        return "forward_backward" if self._is_monotone else "averaged"

    @property
    def _is_monotone(self) -> bool:
        return self._slopes[0] >= 0.0 and self._slopes[1] <= 1.0

    @cached_property
    def majorant(self) -> Majorant:
        """The proof for the operator's numbers."""
        operator = self.operator
        slopes = self._slopes
        return operator.remembered(("majorant", slopes), lambda: majorant(operator.dense(), slopes), oriented=True)

    @property
    def sensitivity(self) -> Tensor:
        """Upper bound of G in every entry, shape (n, n), float64."""
        return self.majorant.sensitivity

    def diagonal_metric(self) -> Tensor | None:
        """w/v for v, w > 0 with Av > 0 and Aᵀw > 0, A = I − M(W): diag(w/v)·A has a positive definite symmetric part."""
        matrix = self.operator.dense().detach().double().cpu()
        comparison = -matrix.abs()
        comparison.diagonal().copy_(1.0 - matrix.diagonal())
        ones = torch.ones(len(matrix), 1, dtype=torch.float64)
        right, left = (torch.linalg.solve_ex(part, ones)[0][:, 0] for part in (comparison, comparison.t()))
        ratio = left / right
        return ratio if bool((ratio > 0.0).all()) else None

    def _plan(self, step: float | Tensor, factor: float) -> Plan | None:
        weights = self.majorant.weights
        distortion = math.sqrt(len(weights)) * float(weights.max() / weights.min())
        return Plan(step, factor, distortion) if factor < 1.0 else None

    def plan(self, algorithm: str, step: float | Tensor | None = None) -> Plan | None:
        """Factors in the norm max |z_i|/v_i.

        Averaged: steps up to 1/(1 − min(eW_ii, 0)), e a slope. Forward–backward: the diagonal step 1/(1 − W_ii), with which the
        iteration eliminates the diagonal. Peaceman–Rachford: the reflected resolvent is nonexpansive in that norm up to
        the step 1/(1 − min W_ii).
        """
        proof = self.majorant
        lowest = float(proof.diagonal.min())
        if algorithm == "averaged":
            diagonal = proof.diagonal
            largest = 1.0 / (1.0 - min(0.0, *(float((end * diagonal).min()) for end in self._slopes)))
            damping = largest if step is None else float(step)
            factor = 1.0 - damping * (1.0 - proof.sloped_log_norm)
            return self._plan(damping, factor) if damping <= largest else None
        if not self._is_monotone:
            return None
        if algorithm == "forward_backward" and step is None:
            tensor = self.operator.tensors[0]
            steps = (1.0 / (1.0 - proof.diagonal)).to(tensor)
            return self._plan(steps, proof.jacobi)
        if algorithm in ("peaceman_rachford", "douglas_rachford"):
            largest = 1.0 / (1.0 - lowest)
            alpha = largest if step is None else float(step)
            gap = alpha * (1.0 - proof.log_norm)
            factor = (1.0 - gap) / (1.0 + gap)
            if alpha > largest:
                return None
            return self._plan(alpha, factor if algorithm == "peaceman_rachford" else 0.5 * (1.0 + factor))
        return None

    def _moved(self, change: Tensor) -> Tensor:
        """‖G|change|‖₂ per sample, never too small."""
        eps = torch.finfo(change.dtype).eps
        sensitivity = self.sensitivity.to(change)
        return euclidean(change.abs() @ sensitivity.t()) * (1.0 + eps * (change.shape[1] + 8))

    def error_bound(self, point: Tensor, image: Tensor) -> Tensor:
        """``‖G|W(point − image)|‖₂``: image solves the equation for the offset q + W(point − image)."""
        return self._moved(self.operator.apply(point - image))

    def defect_bound(self, defect: Tensor, size: Tensor) -> Tensor:
        """``‖G|defect|‖₂``."""
        rounding = (size - euclidean(defect)).clamp_min(0.0)
        return self._moved(defect) + self._norm * rounding

    @cached_property
    def norm_proof(self) -> NormProof:
        """A proof by vectors of a bound of the sensitivity's norm, close to it where the singular vectors are positive."""
        inverse, slopes = self.majorant.sensitivity, self._scales
        start = torch.linalg.svd(self.sensitivity)[2][0].abs()
        found: NormProof | None = None
        for share in (0.0, 1e-9, 1e-6, 1e-3, 1.0):
            raised = start + share * start.amax()
            if not bool((raised > 0.0).all()):
                continue
            # The inverse is an upper bound; more of both sides covers what checking it again may round.
            reach = torch.mv(inverse, slopes * raised * (1.0 + 1e-9) + 1e-13 * raised.amax())
            back = torch.mv(inverse.t(), reach * (1.0 + 1e-9) + 1e-13 * reach.amax())
            value = float((slopes * back / raised).amax().sqrt()) * (1.0 + 1e-14)
            if found is None or value < found.value:
                found = NormProof(value, raised, reach, back)
        assert found is not None
        return found

    @property
    def _scales(self) -> Tensor:
        """D: what the offset is multiplied with."""
        return torch.ones_like(self.majorant.weights)

    @cached_property
    def _norm(self) -> float:
        return spectral_norm_upper_bound(self.sensitivity)

    def offset_lipschitz(self) -> float:  # noqa: D102
        return self._norm

    def suggested_step(self, algorithm: str) -> float | None:
        """A step of plain forward–backward at which I − W does not amplify."""
        wanted = algorithm == "peaceman_rachford" and self._is_monotone
        return 1.0 / (1.0 - float(self.majorant.diagonal.min())) if wanted else None

    def on(self, operator: Operator) -> Componentwise:  # noqa: D102
        return Componentwise(operator, self._slopes)

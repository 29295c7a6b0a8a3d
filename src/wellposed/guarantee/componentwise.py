"""Componentwise sensitivity: I − M(W) is an M-matrix, where M(W) keeps W's diagonal and takes absolute values off it.

This is the condition μ_∞,η(W) < 1 for some weights η (Jafarpour, Davydov, Proskurnikov & Bullo 2021). With slopes in [0, 1],
a change δ of the offset moves the equilibrium by at most G|δ| in every component, ``G = (I − M(W))⁻¹ ≥ 0``: coordinate i of
``dz = E(W dz + δ)`` gives (1 − e_i W_ii)|dz_i| ≤ e_i(Σ_j≠i |W_ij||dz_j| + |δ_i|), and e/(1 − e·W_ii) increases in e.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from wellposed.errors import GuaranteeError
from wellposed.guarantee.base import Guarantee, Plan
from wellposed.norms import euclidean
from wellposed.operators import Operator
from wellposed.verified import gamma, spectral_norm_upper_bound, to_float64


@dataclass(frozen=True)
class Majorant:
    """What was proved about one W; tensors are float64, on the CPU.

    Attributes:
        sensitivity: an upper bound of G in every entry, shape (n, n).
        weights: v > 0 with (I − M(W))v > 0: the weights of the norms max |z_i|/v_i below; close to the Perron vector.
        log_norm: upper bound of μ, the log norm of W in that norm; below one.
        jacobi: upper bound of the contraction factor of forward–backward steps 1/(1 − W_ii) in that norm.
        diagonal: of W, shape (n,).
    """

    sensitivity: Tensor
    weights: Tensor
    log_norm: float
    jacobi: float
    diagonal: Tensor


def majorant(matrix: Tensor) -> Majorant:
    """Prove that I − M(W) is an M-matrix for the stored numbers of W.

    A positive vector v with (I − M)v > 0 is the whole proof, so v may come from anywhere.

    Raises:
        GuaranteeError: no such vector was found.
        InputError: NaN or infinite entries.
    """
    # By torch, not numpy: see `verified.eigenvalues`.
    stored = torch.from_numpy(to_float64(matrix, "W"))
    size = len(stored)
    diagonal = stored.diagonal().clone()
    below_one = 1.0 - diagonal  # rounds once
    if float(below_one.amin()) <= 0.0:
        raise GuaranteeError("W: a diagonal entry is not below one; the condition μ∞(W) < 1 is lost to rounding")
    positive = stored.abs().fill_diagonal_(0.0)
    away = torch.diag(below_one) - positive
    inverse = torch.linalg.inv_ex(away)[0]
    weights = inverse.abs().sum(1)
    for _ in range(30):  # towards the Perron vector of the Jacobi matrix, where the factor below is smallest
        weights = weights + torch.mv(positive, weights) / below_one
        weights = weights / weights.amax()
    weights = weights.nan_to_num(nan=1.0).clamp_min(1e-12)
    rounding = gamma(size + 4)
    through = torch.mv(positive, weights)
    proved = below_one * weights - through - rounding * (below_one * weights + through)
    if not bool((proved > 0.0).all()):
        raise GuaranteeError("W: I − M(W) is not an M-matrix in these numbers; use float64 or a smaller mu")
    # G = X + G·R with R = I − (I − M)X; column j of G|R| is at most v·max_i |R_ij|/proved_i.
    identity = torch.eye(size, dtype=torch.float64)
    remainder = (identity - away @ inverse).abs() + rounding * (away.abs() @ inverse.abs() + identity)
    sensitivity = inverse.abs() + torch.outer(weights, (remainder / proved[:, None]).amax(0))
    outward = 1.0 + 2.0 * rounding
    off = through / weights * outward
    return Majorant(
        sensitivity * outward, weights, float((diagonal + off + 2.0 * rounding * diagonal.abs()).amax()),
        float((off / below_one).amax()) * outward, diagonal,
    )  # fmt: skip


class Componentwise(Guarantee):
    """Existence, uniqueness and componentwise sensitivity from μ_∞,η(W) < 1, for activations with slopes in [0, 1].

    Args:
        operator: W.
    """

    theorem = "Jafarpour, Davydov, Proskurnikov & Bullo 2021: μ_∞,η(W) < 1"
    lipschitz_theorem = "componentwise sensitivity |dz| ≤ (I − M(W))⁻¹|dq|"
    preferred = "forward_backward"

    def __init__(self, operator: Operator) -> None:
        self.operator = operator

    @cached_property
    def majorant(self) -> Majorant:
        """The proof for the operator's numbers."""
        operator = self.operator
        return operator.remembered("majorant", lambda: majorant(operator.dense()), oriented=True)

    @property
    def sensitivity(self) -> Tensor:
        """Upper bound of G in every entry, shape (n, n), float64."""
        return self.majorant.sensitivity

    def _plan(self, step: float | Tensor, factor: float) -> Plan | None:
        weights = self.majorant.weights
        distortion = math.sqrt(len(weights)) * float(weights.max() / weights.min())
        return Plan(step, factor, distortion) if factor < 1.0 else None

    def plan(self, algorithm: str, step: float | Tensor | None = None) -> Plan | None:
        """Factors in the norm max |z_i|/v_i.

        Averaged: steps up to 1/(1 − min(min W_ii, 0)). Forward–backward: the diagonal step 1/(1 − W_ii), with which the
        iteration eliminates the diagonal. Peaceman–Rachford: the reflected resolvent is nonexpansive in that norm up to
        the step 1/(1 − min W_ii).
        """
        proof = self.majorant
        lowest = float(proof.diagonal.min())
        if algorithm == "averaged":
            largest = 1.0 / (1.0 - min(lowest, 0.0))
            damping = largest if step is None else float(step)
            factor = 1.0 - damping * (1.0 - max(proof.log_norm, 0.0))
            return self._plan(damping, factor) if damping <= largest else None
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
    def _norm(self) -> float:
        return spectral_norm_upper_bound(self.sensitivity)

    def offset_lipschitz(self) -> float:  # noqa: D102
        return self._norm

    def suggested_step(self, algorithm: str) -> float | None:
        """A step of plain forward–backward at which I − W does not amplify."""
        return 1.0 / (1.0 - float(self.majorant.diagonal.min())) if algorithm == "peaceman_rachford" else None

    def on(self, operator: Operator) -> Componentwise:  # noqa: D102
        return Componentwise(operator)

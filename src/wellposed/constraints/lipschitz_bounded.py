"""Monotonicity in a learned diagonal metric, with or without a prescribed Lipschitz bound (Revay, Wang & Manchester 2020).

With Ψ = Λ⁻¹ the state weight is ``W = I − Ψ(H + VᵀV + εI + Sᵀ − S)``: the paper's Condition 1 for H = 0, and its Condition 2,
the Lipschitz bound γ from input to output, for ``H = (W_oᵀW_o + ΛUUᵀΛ)/(2γ)``. With a feedthrough D of norm below γ,
``H = (W_oᵀW_o/γ + GR⁻¹Gᵀ)/2`` with ``R = γI − DᵀD/γ`` and ``G = ΛU + W_oᵀD/γ``. Every W that satisfies the condition with the
margin 2εI arises for some V and S.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from wellposed.constraints.base import Constraint, SavedNumber, check_size
from wellposed.constraints.factorisations import factorisation_cache
from wellposed.errors import GuaranteeError, check, choices
from wellposed.guarantee import StronglyMonotone
from wellposed.guarantee.monotone import ProvedMonotone
from wellposed.numerics.golden_section import golden_section
from wellposed.numerics.linear_algebra import full_precision
from wellposed.numerics.outward import rounding_constant
from wellposed.numerics.verified import eigenvalues, is_positive_semidefinite, to_float64
from wellposed.operators.dense import Dense


class LipschitzBounded(SavedNumber, Constraint):
    """Free parameters V, S of shape (n, n) and ψ of shape (n,), the logarithm of Ψ.

    Args:
        state_features: n.
        metric: ``"diagonal"`` to learn ψ, ``"identity"`` to keep it zero.
        epsilon: the margin, as a fraction of the mean eigenvalue of VᵀV plus one: small values give up little of the
            bound, large ones make the equilibrium easier to find.
    """

    saved = "epsilon"

    formula = "lipschitz-bounded"

    def __init__(
        self,
        state_features: int,
        *,
        metric: str = "diagonal",
        epsilon: float = 0.01,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_size(state_features)
        choices("metric", metric, ("diagonal", "identity"))
        check(0.0 < epsilon < math.inf, "epsilon", epsilon, "the margin must be positive and finite")
        self.epsilon = float(epsilon)
        self.V = nn.Parameter(torch.empty(state_features, state_features, device=device, dtype=dtype))
        self.S = nn.Parameter(torch.empty(state_features, state_features, device=device, dtype=dtype))
        psi = torch.empty(state_features, device=device, dtype=dtype)
        self.psi = nn.Parameter(psi, requires_grad=metric == "diagonal")
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """V and S uniformly within ±1/√n, Ψ = I."""
        bound = self.V.shape[0] ** -0.5
        nn.init.uniform_(self.V, -bound, bound)
        nn.init.uniform_(self.S, -bound, bound)
        nn.init.zeros_(self.psi)

    def _is_usable(self, value: float) -> bool:
        return 0.0 < value < math.inf

    @property
    @override
    def state_features(self) -> int:
        return self.V.shape[0]

    def metric(self) -> Tensor:
        """The diagonal of Λ, shape (n,), with its graph."""
        return torch.exp(-self.psi)

    def margin(self) -> Tensor:
        """ε as it enters W, a number with its graph."""
        return self.epsilon * (1.0 + self.V.square().sum() / self.V.shape[0])

    def materialise(self, bounded: Tensor | None = None) -> tuple[Dense, StronglyMonotone]:
        """W and its guarantee.

        Args:
            bounded: H, shape (n, n), symmetric positive semidefinite; see `lipschitz_term`.
        """
        with full_precision(self.V.device):
            identity = torch.eye(self.V.shape[0], dtype=self.V.dtype, device=self.V.device)
            core = self.V.t() @ self.V + self.margin() * identity + (self.S.t() - self.S)
            if bounded is not None:
                core = core + bounded
            matrix = identity - torch.exp(self.psi)[:, None] * core
        operator = Dense(matrix, factorisation_cache(self), self.metric().detach().double())
        return operator, ProvedMonotone(operator)

    @torch.no_grad()
    def set_dense(self, matrix: Tensor, metric: Tensor, bounded: Tensor | None = None) -> None:
        """Choose V, S and ψ so that W becomes a given matrix.

        Args:
            matrix: W, shape (n, n).
            metric: the diagonal of Λ, shape (n,), positive.
            bounded: H at that metric, or None.

        Raises:
            GuaranteeError: W does not satisfy the condition in this metric with this layer's margin.
        """
        weight, metric = matrix.detach().double(), metric.detach().double()
        core = metric[:, None] * (torch.eye(len(weight), dtype=torch.float64, device=weight.device) - weight)
        symmetric = 0.5 * (core + core.T) - (0.0 if bounded is None else bounded.detach().double())
        usable = bool(torch.isfinite(symmetric).all() and torch.isfinite(metric.log()).all())
        if not usable:
            raise GuaranteeError(
                "matrix: its condition overflows in this metric, or the metric is not positive and finite"
            )
        # With ε = e·(1 + tr VᵀV/n), the trace of VᵀV follows from that of VᵀV + εI.
        trace = (float(symmetric.trace()) - len(weight) * self.epsilon) / (1.0 + self.epsilon)
        margin = self.epsilon * (1.0 + trace / len(weight))
        values, vectors = torch.linalg.eigh(symmetric)
        remaining = values - margin
        if float(remaining.amin()) < -1e-9 * float(values.abs().amax()):
            raise GuaranteeError(
                f"matrix: misses the condition by {-float(remaining.amin()):.3g} in this metric with epsilon={self.epsilon}; "
                "use a smaller epsilon, a better metric or a larger gamma"
            )
        found = remaining.clamp_min(0.0).sqrt()[:, None] * vectors.T, 0.5 * (core.T - core) / 2.0, -metric.log()
        parts = [value.to(self.V.dtype) for value in found]
        if not all(bool(torch.isfinite(part).all()) for part in (*parts, parts[2].exp())):
            raise GuaranteeError(f"matrix: its parameters in this metric overflow {self.V.dtype}; use float64")
        for parameter, value in zip((self.V, self.S, self.psi), parts, strict=True):
            parameter.copy_(value)

    def extra_repr(self) -> str:
        """Shown inside ``repr``."""
        return f"state_features={self.state_features}, epsilon={self.epsilon}"


def lipschitz_term(
    input_weight: Tensor,
    output_weight: Tensor,
    metric: Tensor,
    gamma: Tensor | float,
    feedthrough: Tensor | None = None,
) -> Tensor:
    """H of the bound γ, shape (n, n), with its graph.

    Args:
        input_weight: U, shape (n, inputs).
        output_weight: W_o, shape (outputs, n).
        metric: the diagonal of Λ, shape (n,).
        gamma: the bound.
        feedthrough: D, shape (outputs, inputs), of norm below γ; None for zero.
    """
    scaled = metric[:, None] * input_weight
    if feedthrough is None:
        return (output_weight.t() @ output_weight + scaled @ scaled.t()) / (2.0 * gamma)
    # R⁻¹ = (I + Dᵀ(γ²I − DDᵀ)⁻¹D)/γ: the solve has the size of the output, not of the input.
    identity = torch.eye(feedthrough.shape[0], dtype=feedthrough.dtype, device=feedthrough.device)
    cross = scaled + output_weight.t() @ feedthrough / gamma
    through = cross @ feedthrough.t()
    solved = torch.linalg.solve(gamma * gamma * identity - feedthrough @ feedthrough.t(), through.t())
    return (output_weight.t() @ output_weight + cross @ cross.t() + through @ solved) / (2.0 * gamma)


def lipschitz_matrix(
    matrix: Tensor,
    input_weight: Tensor,
    output_weight: Tensor,
    metric: Tensor,
    gamma: float,
    feedthrough: Tensor | None = None,
) -> Tensor:
    """Condition 2 in float64: ``2Λ − ΛW − WᵀΛ − 2H``; the bound γ holds where it is semidefinite and ‖D‖₂ < γ."""
    w, u, o, metric = (t.detach().double() for t in (matrix, input_weight, output_weight, metric))
    core = metric[:, None] * (torch.eye(len(w), dtype=torch.float64, device=w.device) - w)
    direct = None if feedthrough is None else feedthrough.detach().double()
    return core + core.T - 2.0 * lipschitz_term(u, o, metric, gamma, direct)


def proved_lipschitz(matrix: Tensor, input_weight: Tensor, output_weight: Tensor, metric: Tensor) -> float:
    """The least γ for which Condition 2 is proved for stored W, U and W_o with a multiple of the metric Λ.

    Args:
        matrix: W, shape (n, n).
        input_weight: U, shape (n, inputs).
        output_weight: W_o, shape (outputs, n).
        metric: the diagonal of Λ, shape (n,); any positive values, of which only the ratios matter.

    Raises:
        GuaranteeError: 2Λ − ΛW − WᵀΛ is not positive definite.
    """
    w, u, o = to_float64(matrix, "W"), to_float64(input_weight, "U"), to_float64(output_weight, "W_o")
    metric_ = to_float64(metric, "metric")
    displacement = metric_[:, None] * (np.eye(len(w)) - w)
    through = metric_[:, None] * u
    condition, seen, driven = displacement + displacement.T, o.T @ o, through @ through.T
    factor, failed = torch.linalg.cholesky_ex(torch.from_numpy(condition))
    if int(failed):
        raise GuaranteeError("W: 2Λ − ΛW − WᵀΛ is not positive definite in this metric")
    identity = torch.eye(len(w), dtype=torch.float64)
    inverse = torch.linalg.solve_triangular(factor, identity, upper=False).numpy()
    left, right = inverse @ seen @ inverse.T, inverse @ driven @ inverse.T

    def bound(logarithm: float) -> float:
        scale = math.exp(logarithm)
        return float(eigenvalues(left / scale + right * scale)[-1])

    scale = math.exp(golden_section(bound, -12.0, 12.0, 1e-3))
    gamma = bound(math.log(scale))
    # Entries of the matrix below err by this much, relative to the sums of the absolute values of their terms.
    terms = np.abs(displacement) + np.abs(displacement.T) + metric_.max() * 2.0 * np.eye(len(w))
    absolute = [terms, np.abs(o).T @ np.abs(o), np.abs(through) @ np.abs(through).T]
    rounding = rounding_constant(max(o.shape[0], u.shape[1]) + 8)
    slack = 1e-12
    while slack < 1.0:
        candidate = max(gamma, 1e-300) * (1.0 + slack)
        weights = (candidate * scale, 1.0, scale * scale)
        error = rounding * float(sum(c * part for c, part in zip(weights, absolute, strict=True)).sum(axis=1).max())
        test = weights[0] * condition - weights[1] * seen - weights[2] * driven
        if is_positive_semidefinite(test, error) and is_positive_semidefinite(condition, rounding * terms.sum(1).max()):
            return candidate
        slack *= 4.0
    raise GuaranteeError("W: no Lipschitz bound could be proved at these weights in this metric; use float64")


def proved_with_feedthrough(
    matrix: Tensor, input_weight: Tensor, output_weight: Tensor, metric: Tensor, feedthrough: Tensor
) -> float:
    """As `proved_lipschitz`, for y = W_o z + D x + b_o.

    Condition 2 with x eliminated is ``[[C − KKᵀ/γ, W_oᵀ + KDᵀ/γ], [·, γI − DDᵀ/γ]] ⪰ 0`` with C = 2Λ − ΛW − WᵀΛ and K = ΛU.

    Args:
        matrix: W, shape (n, n).
        input_weight: U, shape (n, inputs).
        output_weight: W_o, shape (outputs, n).
        metric: the diagonal of Λ, shape (n,); any positive values, of which only the ratios matter.
        feedthrough: D, shape (outputs, inputs).

    Raises:
        GuaranteeError: nothing could be proved in this metric.
    """
    w, u, o, scale_, d = (
        to_float64(part, name)
        for part, name in (
            (matrix, "W"), (input_weight, "U"), (output_weight, "W_o"), (metric, "metric"), (feedthrough, "D"),
        )
    )  # fmt: skip
    displacement, through = scale_[:, None] * (np.eye(len(w)) - w), scale_[:, None] * u
    condition, driven = displacement + displacement.T, through @ through.T
    crossed, direct, outputs = through @ d.T, d @ d.T, np.eye(len(d))

    def condition_2(gamma: float, s: float) -> np.ndarray:
        side = o.T + crossed * (s / gamma)
        return np.block([[s * condition - driven * (s * s / gamma), side], [side.T, gamma * outputs - direct / gamma]])

    largest = 1e3 * (1.0 + float(np.linalg.norm(o) * np.linalg.norm(u) + np.linalg.norm(d)))

    def least(logarithm: float) -> float:
        low, high = 0.0, largest
        while high - low > 1e-10 * high and high > 1e-12:
            middle = 0.5 * (low + high) if low > 0.0 or high < 1e-3 * largest else 0.1 * high
            good = eigenvalues(condition_2(middle, math.exp(logarithm)))[0] >= 0.0
            low, high = (low, middle) if good else (middle, high)
        return high

    logarithm = golden_section(least, -6.0, 6.0, 1e-2)
    s, found = math.exp(logarithm), least(logarithm)
    # Entries of the matrix err by this much, relative to the sums of the absolute values of their terms.
    sizes = np.abs(displacement) + np.abs(displacement.T) + 2.0 * scale_.max() * np.eye(len(w))
    reach, seen = np.abs(through), np.abs(d)
    rounding = rounding_constant(u.shape[1] + 10)
    slack = 1e-10
    while slack < 1.0:
        gamma = found * (1.0 + slack)
        upper = s * sizes + (reach @ reach.T) * (s * s / gamma)
        side = np.abs(o).T + (reach @ seen.T) * (s / gamma)
        lower = gamma * outputs + (seen @ seen.T) / gamma
        error = rounding * float(np.block([[upper, side], [side.T, lower]]).sum(axis=1).max())
        plain = is_positive_semidefinite(condition, rounding * sizes.sum(axis=1).max())
        if plain and is_positive_semidefinite(condition_2(gamma, s), error):
            return gamma
        slack *= 4.0
    raise GuaranteeError("W: no Lipschitz bound could be proved at these weights in this metric; use float64")

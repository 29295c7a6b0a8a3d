"""The condition of a Lipschitz bound (Revay et al. 2020, Condition 2), and the least bound that is proved for stored numbers."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from wellposed.errors import GuaranteeError
from wellposed.numerics.golden_section import golden_section
from wellposed.numerics.outward import rounding_constant
from wellposed.numerics.verified import all_within_are_semidefinite, eigenvalues, to_float64


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
    identity = torch.eye(len(w), dtype=torch.float64, device="cpu")
    inverse = torch.linalg.solve_triangular(factor, identity, upper=False).numpy()
    left, right = inverse @ seen @ inverse.T, inverse @ driven @ inverse.T

    def bound(logarithm: float) -> float:
        scale = math.exp(logarithm)
        return float(eigenvalues(left / scale + right * scale)[-1])

    scale = math.exp(golden_section(bound, -12.0, 12.0, 1e-3))
    gamma = bound(math.log(scale))
    # Entries of the matrix below err by this much, relative to the sums of the absolute values of their terms.
    terms = np.abs(displacement) + np.abs(displacement.T) + np.diag(2.0 * metric_)
    absolute = [terms, np.abs(o).T @ np.abs(o), np.abs(through) @ np.abs(through).T]
    rounding = rounding_constant(max(o.shape[0], u.shape[1]) + 8)
    slack = 1e-12
    while slack < 1.0:
        candidate = max(gamma, 1e-300) * (1.0 + slack)
        weights = (candidate * scale, 1.0, scale * scale)
        errors = rounding * np.sum([c * part for c, part in zip(weights, absolute, strict=True)], axis=0)
        test = weights[0] * condition - weights[1] * seen - weights[2] * driven
        if all(all_within_are_semidefinite(*claim) for claim in ((test, errors), (condition, rounding * terms))):
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
    sizes = np.abs(displacement) + np.abs(displacement.T) + np.diag(2.0 * scale_)
    reach, seen = np.abs(through), np.abs(d)
    rounding = rounding_constant(u.shape[1] + 10)
    slack = 1e-10
    while slack < 1.0:
        gamma = found * (1.0 + slack)
        upper = s * sizes + (reach @ reach.T) * (s * s / gamma)
        side = np.abs(o).T + (reach @ seen.T) * (s / gamma)
        lower = gamma * outputs + (seen @ seen.T) / gamma
        errors = rounding * np.block([[upper, side], [side.T, lower]])
        plain = all_within_are_semidefinite(condition, rounding * sizes)
        if plain and all_within_are_semidefinite(condition_2(gamma, s), errors):
            return gamma
        slack *= 4.0
    raise GuaranteeError("W: no Lipschitz bound could be proved at these weights in this metric; use float64")

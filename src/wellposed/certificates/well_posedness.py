"""Is the equilibrium of given weights unique for every input? Certified, refuted, or unknown.

For slopes in [0, 1] it is, if ``ΛW`` has a symmetric part below Λ for some diagonal Λ > 0 (Revay, Wang & Manchester 2020,
Theorem 1). For ReLU it is not, if det(I − DW) ≤ 0 for some D of zeros and ones: as det(I) = 1, some D' between has a null vector
v = D'Wv, and along it lie two equilibria of one offset. Both verdicts are proved for the stored numbers, whatever their scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from wellposed.activations import ReLU
from wellposed.certificates.refutation import TwoEquilibria as TwoEquilibria
from wellposed.certificates.refutation import refuted
from wellposed.errors import CertificateError, InputError
from wellposed.guarantee.monotone import ProvedMonotone
from wellposed.layers.equilibrium import Equilibrium
from wellposed.operators.dense import Dense
from wellposed.verified import gamma, is_positive_semidefinite, to_float64


@dataclass(frozen=True)
class Verdict:
    """What is known of one W.

    Attributes:
        outcome: ``"certified"``, ``"refuted"`` or ``"unknown"``.
        metric: the diagonal of Λ that certifies it, float64, shape (n,).
        witness: two equilibria that refute it; None where the proof is a determinant alone (see `refutation`).
    """

    outcome: str
    metric: Tensor | None = None
    witness: TwoEquilibria | None = None


def well_posedness(layer: Equilibrium) -> Verdict:
    """Decide, if possible, whether a layer on flat inputs has exactly one equilibrium for every input.

    Args:
        layer: any affine layer, also one without a guarantee.

    Raises:
        InputError: its state map is no matrix, or its activation has slopes outside of [0, 1].
    """
    with torch.no_grad():
        operator, guarantee = layer.materialise()
        if not isinstance(operator, Dense):
            raise InputError(f"layer={type(layer).__name__}: needs a state map that is a matrix")
        layer.activation.require_monotone("this theorem")
        matrix = operator.dense().detach().double().cpu()
        metric = find_metric(matrix, None if guarantee is None else guarantee.diagonal_metric())
        if metric is not None:
            return Verdict("certified", metric=metric)
        if not isinstance(layer.activation, ReLU):
            return Verdict("unknown")
        proved, witness = refuted(matrix)
        if witness is None:
            return Verdict("refuted" if proved else "unknown")
        weight = layer.injection.weight.detach().double().cpu()
        bias = layer.injection.bias
        wanted = witness.offset if bias is None else witness.offset - bias.detach().double().cpu()
        x = torch.linalg.lstsq(weight, wanted[:, None]).solution[:, 0]
        scale = float(wanted.norm()) + float((witness.offset - wanted).norm())
        reached = float((weight @ x - wanted).norm()) <= 1e-9 * scale
        return Verdict("refuted", witness=replace(witness, input=x if reached else None))


def proves_well_posed(matrix: Tensor, metric: Tensor) -> bool:
    """Whether Λ(I − W) + (I − W)ᵀΛ ≻ 0 is proved for stored numbers, rounding included."""
    weight, scale = to_float64(matrix, "W"), to_float64(metric, "metric")
    half = scale[:, None] * (np.eye(len(weight)) - weight)
    terms = scale[:, None] * (np.abs(weight) + np.eye(len(weight)))
    error = gamma(8) * float((terms + terms.T).sum(axis=1).max())
    return bool((scale > 0.0).all()) and is_positive_semidefinite(half + half.T, error)


def find_metric(matrix: Tensor, start: Tensor | None = None, tolerance: float = 1e-7) -> Tensor | None:
    """A diagonal Λ in which W is proved to be well posed, or None.

    Minimises s subject to M(λ) + sI ⪰ 0, λ > 0 and Σλ < 2n by an interior-point method, until s is below zero.

    Args:
        matrix: W, float64, shape (n, n).
        start: a metric to try first, shape (n,).
        tolerance: relative to the size of I − W; a least s that close to zero counts as none.
    """
    size = len(matrix)
    displacement = torch.eye(size, dtype=torch.float64) - matrix
    balanced = 1.0 / displacement.diagonal()
    for metric in (torch.ones(size, dtype=torch.float64), balanced, start):
        if metric is not None and bool(torch.isfinite(metric).all()) and proves_well_posed(matrix, metric):
            return metric.double().cpu()
    scale = float(torch.linalg.matrix_norm(displacement, 2))
    if scale == 0.0:
        return None
    h = displacement / scale
    multipliers = torch.ones(size, dtype=torch.float64)
    shift = 1.0 - float(torch.linalg.eigvalsh(h + h.t())[0])
    weight, identity = 1.0, torch.eye(size, dtype=torch.float64)

    def value(multipliers: Tensor, shift: float) -> float:
        room = 2.0 * size - float(multipliers.sum())
        if room <= 0.0 or bool((multipliers <= 0.0).any()):
            return math.inf
        half = multipliers[:, None] * h
        factor, failed = torch.linalg.cholesky_ex(half + half.t() + shift * identity)
        if int(failed):
            return math.inf
        barrier = -2.0 * float(factor.diagonal().log().sum()) - float(multipliers.log().sum()) - math.log(room)
        return weight * shift + barrier

    for _ in range(200):
        half = multipliers[:, None] * h
        factor, failed = torch.linalg.cholesky_ex(half + half.t() + shift * identity)
        if int(failed):  # lost to rounding
            return None
        inverse = torch.cholesky_inverse(factor)
        room = 2.0 * size - float(multipliers.sum())
        through, square = h @ inverse, inverse @ inverse
        gradient = torch.cat(
            [-2.0 * (h * inverse).sum(1) - 1.0 / multipliers + 1.0 / room, (weight - inverse.trace()).reshape(1)]
        )
        hessian = gradient.new_empty(size + 1, size + 1)
        hessian[:size, :size] = 2.0 * (through * through.t() + inverse * (through @ h.t())) + 1.0 / room**2
        hessian[:size, :size].diagonal().add_(multipliers**-2.0)
        hessian[:size, size] = hessian[size, :size] = 2.0 * (h * square).sum(1)
        hessian[size, size] = square.trace()
        direction = -torch.linalg.solve_ex(hessian, gradient[:, None])[0][:, 0]
        decrement = max(-float(gradient @ direction), 0.0) ** 0.5
        if decrement < 0.5:
            gap = (2.0 * size + 1.0) / weight
            if shift < 0.0 and proves_well_posed(matrix, multipliers):
                return multipliers
            if shift - 2.0 * gap > 0.0 or gap < tolerance:
                return None
            weight *= 5.0
            continue
        before, length = value(multipliers, shift), 1.0
        while length > 1e-9 and not value(
            multipliers + length * direction[:-1], shift + length * float(direction[-1])
        ) < (before - 0.05 * length * decrement**2):
            length *= 0.6
        if length <= 1e-9:
            return None
        multipliers, shift = multipliers + length * direction[:-1], shift + length * float(direction[-1])
    return None


def metric_guarantee(name: str, layer: Equilibrium) -> ProvedMonotone | None:
    """For a layer that promises nothing, what a diagonal metric proves; None where the layer has a guarantee of its own.

    Args:
        name: of the layer, for errors.
        layer: any affine layer.

    Raises:
        CertificateError: no metric proves it well posed, or its state map is no matrix.
    """
    with torch.no_grad():
        operator, guarantee = layer.materialise()
    if guarantee is not None:
        return None
    if not isinstance(operator, Dense) or not layer.activation.is_monotone:
        raise CertificateError(f"{name}: nothing is promised of this layer; its equilibrium may not be unique")
    matrix = operator.dense().detach().double().cpu()
    metric = find_metric(matrix)
    if metric is None:
        raise CertificateError(
            f"{name}: no diagonal metric proves this layer well posed; its equilibrium may not be unique"
        )
    return ProvedMonotone(Dense(matrix, metric=metric))

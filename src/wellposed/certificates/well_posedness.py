"""Is the equilibrium of given weights unique for every input? Certified, refuted, or unknown.

For slopes in [0, 1] it is, if ``ΛW`` has a symmetric part below Λ for some diagonal Λ > 0 (Revay, Wang & Manchester 2020,
Theorem 1). For ReLU it is not, if det(I − DW) < 0 for some D of zeros and ones: as det(I) = 1, some D' between has a null vector
v = D'Wv, and along it lie two equilibria of one offset, which are constructed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.activations import ReLU
from wellposed.errors import InputError
from wellposed.guarantee.metric_search import find_metric
from wellposed.layers.equilibrium import Equilibrium
from wellposed.operators.dense import Dense

_STARTS = 40  # of the search for a negative determinant


@dataclass(frozen=True)
class TwoEquilibria:
    """Two solutions of z = max(Wz + q, 0).

    Attributes:
        offset: q, float64, shape (n,).
        first: a solution, shape (n,).
        second: another.
        residual: the larger of the two norms ‖max(Wz + q, 0) − z‖₂, in float64.
        input: an x with Ux + b = q, shape (inputs,), or None where there is none.
    """

    offset: Tensor
    first: Tensor
    second: Tensor
    residual: float
    input: Tensor | None


@dataclass(frozen=True)
class Verdict:
    """What is known of one W.

    Attributes:
        outcome: ``"certified"``, ``"refuted"`` or ``"unknown"``.
        metric: the diagonal of Λ that certifies it, float64, shape (n,).
        witness: the two equilibria that refute it.
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
        witness = two_equilibria(matrix)
        if witness is None:
            return Verdict("unknown")
        weight = layer.injection.weight.detach().double().cpu()
        bias = layer.injection.bias
        wanted = witness.offset if bias is None else witness.offset - bias.detach().double().cpu()
        x = torch.linalg.lstsq(weight, wanted[:, None]).solution[:, 0]
        reached = float((weight @ x - wanted).norm()) <= 1e-9 * (1.0 + float(wanted.norm()))
        found = TwoEquilibria(witness.offset, witness.first, witness.second, witness.residual, x if reached else None)
        return Verdict("refuted", witness=found)


def two_equilibria(matrix: Tensor) -> TwoEquilibria | None:
    """Two equilibria of one offset for ReLU, or None where the search found no negative determinant.

    Flips entries of D, each time the one that shrinks det(I − DW) most, from several starts.

    Args:
        matrix: W, float64, shape (n, n).
    """
    size = len(matrix)
    generator = torch.Generator().manual_seed(0)
    for start in range(_STARTS):
        share = 0.0 if start == 0 else float(torch.rand((), generator=generator))
        pattern = (torch.rand(size, generator=generator) < share).double()
        for _ in range(4 * size):
            inverse, failed = torch.linalg.inv_ex(torch.eye(size, dtype=torch.float64) - pattern[:, None] * matrix)
            if int(failed):
                break
            # det(I − D'W)/det(I − DW) when entry k is flipped: linear in it.
            flips = 1.0 - 2.0 * pattern
            ratios = 1.0 - flips * (matrix * inverse.t()).sum(1)
            place = int(ratios.argmin())
            if float(ratios[place]) <= 0.0:
                found = _along(matrix, pattern, inverse, place, float(flips[place]), float(ratios[place]))
                if found is not None:
                    return found
            if float(ratios[place]) >= 1.0:
                break
            pattern[place] = 1.0 - pattern[place]
    return None


def _along(
    matrix: Tensor, pattern: Tensor, inverse: Tensor, place: int, flip: float, ratio: float
) -> TwoEquilibria | None:
    """The two equilibria where the determinant crosses zero while one entry of D changes."""
    between = float(pattern[place]) + flip / (1.0 - ratio)  # the ratio is linear in the entry, one at the start
    vector = inverse[:, place]
    change = matrix @ vector
    if float(change[place]) < 0.0:
        vector, change = -vector, -change
    reach = 1.0 + float(change.abs().max())
    middle = torch.where(pattern > 0.5, reach, -reach).double()
    first, second = middle + 0.5 * change, middle - 0.5 * change
    first[place], second[place] = between * change[place], (between - 1.0) * change[place]
    states = [first.clamp_min(0.0), second.clamp_min(0.0)]
    offset = 0.5 * ((first - matrix @ states[0]) + (second - matrix @ states[1]))
    residual = max(float(((matrix @ state + offset).clamp_min(0.0) - state).norm()) for state in states)
    apart = float((states[0] - states[1]).norm())
    if not residual <= 1e-6 * apart:
        return None
    return TwoEquilibria(offset, states[0], states[1], residual, None)

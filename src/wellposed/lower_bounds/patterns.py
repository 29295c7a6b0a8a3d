"""Steep inputs by activation patterns: lower bounds that nearly meet the upper ones.

For ReLU the Jacobian of x ↦ C z*(x) at a pattern D of active units is C(I − DW)⁻¹DU, and every pattern occurs where U has full
row rank: choose any pre-activation v with these signs and solve Ux = v − W max(v, 0) − b. Flipping one unit changes the Jacobian
by a matrix of rank one, so all flips are tried at once. It is large in the norm of the constant: Euclidean, ℓ∞ or ℓ1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wellposed.bounds.affine_network import AffineNetwork
from wellposed.numerics.norm import Norm

_LARGEST = 400  # states for which it is tried: a step costs their cube
_STARTS = 6
_ROUNDS = 400
_GROWTH = 1e-12  # relative, of the norm, without which flipping units stops
_MISSED = 1e-8  # relative, by which a pre-activation may miss its pattern's


@torch.no_grad()
def steep_points(network: AffineNetwork, x: Tensor, norm: Norm = "2") -> list[tuple[Tensor, Tensor]]:
    """Inputs with the directions in which their Jacobians are largest; none for states that are too large.

    Args:
        network: one ReLU layer and a linear head.
        x: inputs to start from, shape (batch, ...), float64.
        norm: of inputs and outputs: ``"2"``, ``"inf"`` or ``"1"``.
    """
    if not 0 < len(network.matrix) <= _LARGEST:
        return []
    matrix, weight, bias = network.matrix, network.weight, network.bias
    rows = x[:_STARTS].flatten(1)
    values = network.layer.state(rows) @ matrix.t() + rows @ weight.t() + bias
    points = []
    for value in values:
        pattern, direction = ascend(matrix, weight, network.output, (value > 0.0).double(), norm)
        point = _with_pattern(matrix, weight, bias, pattern, value)
        if point is not None:
            points.append((point.reshape(x.shape[1:]), direction.reshape(x.shape[1:])))
    return points


def steepest(jacobian: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """Norms of matrices, and the vectors that they stretch most.

    Args:
        jacobian: shape (*, outputs, inputs).
        norm: of inputs and outputs.

    Returns:
        Shapes (*,) and (*, inputs).
    """
    if norm == "inf":  # the largest row sum, along the signs of that row
        sums, rows = jacobian.abs().sum(-1).max(-1)
        chosen = jacobian.gather(-2, rows[..., None, None].expand(*rows.shape, 1, jacobian.shape[-1]))[..., 0, :]
        return sums, torch.where(chosen < 0.0, -1.0, 1.0).to(jacobian)
    if norm == "1":  # the largest column sum, along that coordinate
        sums, columns = jacobian.abs().sum(-2).max(-1)
        return sums, nn.functional.one_hot(columns, jacobian.shape[-1]).to(jacobian)
    _, values, right = torch.linalg.svd(jacobian, full_matrices=False)
    return values[..., 0], right[..., 0, :]


def ascend(matrix: Tensor, weight: Tensor, output: Tensor, pattern: Tensor, norm: Norm = "2") -> tuple[Tensor, Tensor]:
    """Flip units, each time the one that makes ‖C(I − DW)⁻¹DU‖ largest, until none does.

    Args:
        matrix: W, shape (n, n), float64.
        weight: U, shape (n, inputs).
        output: C, shape (outputs, n).
        pattern: D to start from, zeros and ones, shape (n,).
        norm: of inputs and outputs.

    Returns:
        The pattern, and the unit vector that its Jacobian stretches most, shape (inputs,).
    """
    identity = torch.eye(len(matrix), dtype=torch.float64, device="cpu")
    pattern, best = pattern.clone(), -1.0
    kept, along = pattern, torch.zeros_like(weight[0])
    for _ in range(_ROUNDS):
        inverse = torch.linalg.inv_ex(identity - pattern[:, None] * matrix)[0]
        states = inverse @ (pattern[:, None] * weight)
        jacobian = output @ states
        current, direction = steepest(jacobian, norm)
        if not float(current) > best * (1.0 + _GROWTH):
            break
        best, kept, along = float(current), pattern.clone(), direction
        slopes = weight + matrix @ states  # of the pre-activations, shape (n, inputs)
        reach = output @ inverse
        flips = 1.0 - 2.0 * pattern
        factors = flips / (1.0 - flips * (matrix * inverse.t()).sum(1))
        place = int(_flipped_norms(jacobian, reach, slopes, factors, norm).nan_to_num().argmax())
        pattern[place] = 1.0 - pattern[place]
    return kept, along


def _flipped_norms(jacobian: Tensor, left: Tensor, right: Tensor, factors: Tensor, norm: Norm) -> Tensor:
    """Norms, or their squares, of ``J + f_k·a_k b_kᵀ`` for the columns a_k of ``left`` and the rows b_k of ``right``."""
    if norm != "2":
        moved = (left * factors).t()[:, :, None] * right[:, None, :]
        return (jacobian + moved).abs().sum(2 if norm == "inf" else 1).amax(1)
    # ‖J + f·a bᵀ‖² is the largest eigenvalue of JJᵀ + f(Jb aᵀ + a (Jb)ᵀ) + f²‖b‖²aaᵀ.
    mixed = torch.einsum("qk,rk->kqr", jacobian @ right.t(), left) * factors[:, None, None]
    square = torch.einsum("qk,rk->kqr", left, left) * (factors * right.norm(dim=1)).square()[:, None, None]
    gram = (jacobian @ jacobian.t())[None] + mixed + mixed.mT + square
    return torch.linalg.eigvalsh(gram.nan_to_num())[:, -1]


def _with_pattern(matrix: Tensor, weight: Tensor, bias: Tensor, pattern: Tensor, value: Tensor) -> Tensor | None:
    """An input whose pre-activation has the signs of a pattern, with sizes like those of another pre-activation."""
    size = value.abs().clamp_min(0.1 * float(value.abs().mean()) + 1e-3)
    wanted = torch.where(pattern > 0.5, size, -size)
    target = wanted - matrix @ wanted.clamp_min(0.0) - bias
    point = torch.linalg.lstsq(weight, target[:, None], driver="gelsd").solution[:, 0]
    missed = float((weight @ point - target).norm())
    return point if missed <= _MISSED * (1.0 + float(target.norm())) else None

"""Orthogonal matrices from free parameters, in three ways.

Block Cayley transform (Trockman & Kolter 2021), the cheapest: for a tall parameter [U; V], ``A = U − Uᵀ + VᵀV`` has a positive
semidefinite symmetric part, and ``Q = [(I + A)⁻¹(I − A); −2V(I + A)⁻¹]`` satisfies QᵀQ = I because
(I − A)ᵀ(I − A) + 4VᵀV = (I + A)ᵀ(I + A). It is defined for every parameter, so weight decay cannot break it. A square Q is a
rotation (determinant one) without eigenvalue −1.

Exponential with dynamic trivialisation (Lezcano-Casado 2019): Q = Q₀·exp(S), S skew; every so often Q₀ takes over Q and S
starts again from zero, so that S stays small, where the exponential is accurate and well conditioned.

Björck (Anil et al. 2019): the polar factor of a parameter, by W ← 1.5W − 0.5WWᵀW. Singular values in [0, 1] stay there, so the
result has norm one at most, and is orthogonal as far as the iteration has converged.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wellposed.numerics.linear_algebra import inverse as inverses


def cayley_orthogonal(parameter: Tensor) -> Tensor:
    """Matrices of the parameter's shape with orthonormal columns (tall), rows (wide) or both (square).

    Args:
        parameter: shape (*, rows, columns), real or complex, any values.
    """
    if parameter.shape[-2] < parameter.shape[-1]:
        return cayley_orthogonal(parameter.mT).mT
    size = parameter.shape[-1]
    upper, lower = parameter[..., :size, :], parameter[..., size:, :]
    identity = torch.eye(size, dtype=parameter.dtype, device=parameter.device)
    skew = upper - upper.mH + lower.mH @ lower
    inverse = inverses(identity + skew)
    # The same without a product, whose difference may cost small parameters a bit: too much in float32.
    double = parameter.dtype in (torch.float64, torch.complex128)
    first = 2.0 * inverse - identity if double else inverse @ (identity - skew)
    return torch.cat([first, -2.0 * lower @ inverse], -2)


def skew_exponential(parameter: Tensor) -> Tensor:
    """``exp(S)`` for the skew matrix S of the parameter's upper triangle.

    Args:
        parameter: shape (n, n); the rest of it is not used.
    """
    upper = parameter.triu(1)
    return torch.linalg.matrix_exp(upper - upper.t())


def bjorck_orthogonal(parameter: Tensor, steps: int = 30) -> Tensor:
    """A matrix of the parameter's shape near its polar factor, of norm at most one but for rounding.

    Args:
        parameter: shape (rows, columns).
        steps: singular values s of the scaled parameter become orthogonal to rounding if 1.5ˢᵗᵉᵖˢ·s is well above one.
    """
    if parameter.shape[0] < parameter.shape[1]:
        return bjorck_orthogonal(parameter.t(), steps).t()
    size = parameter.abs()
    # ‖W‖₂² ≤ ‖W‖₁‖W‖_∞: every singular value of the scaled matrix is at most one.
    scale = size.sum(0).amax().sqrt() * size.sum(1).amax().sqrt()
    matrix = parameter / scale.clamp_min(torch.finfo(parameter.dtype).tiny)
    for _ in range(steps):
        matrix = torch.addmm(matrix, matrix, matrix.t() @ matrix, beta=1.5, alpha=-0.5)
    return matrix

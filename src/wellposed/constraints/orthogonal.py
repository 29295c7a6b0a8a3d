"""Orthogonal matrices from free parameters, by the block Cayley transform (Trockman & Kolter 2021).

For a tall parameter [U; V], ``A = U − Uᵀ + VᵀV`` has a positive semidefinite symmetric part, and
``Q = [(I + A)⁻¹(I − A); −2V(I + A)⁻¹]`` satisfies QᵀQ = I because (I − A)ᵀ(I − A) + 4VᵀV = (I + A)ᵀ(I + A). It is defined
for every parameter, so weight decay cannot break it. A square Q is a rotation (determinant one) without eigenvalue −1.
"""

from __future__ import annotations

import torch
from torch import Tensor


def cayley_orthogonal(parameter: Tensor) -> Tensor:
    """A matrix of the parameter's shape with orthonormal columns (tall), rows (wide) or both (square).

    Args:
        parameter: shape (rows, columns), any values.
    """
    if parameter.shape[0] < parameter.shape[1]:
        return cayley_orthogonal(parameter.t()).t()
    size = parameter.shape[1]
    upper, lower = parameter[:size], parameter[size:]
    identity = torch.eye(size, dtype=parameter.dtype, device=parameter.device)
    skew = upper - upper.t() + lower.t() @ lower
    inverse = torch.linalg.solve_ex(identity + skew, identity)[0]
    return torch.cat([inverse @ (identity - skew), -2.0 * lower @ inverse])

"""GMRES for a batch of independent linear systems, each with its own Krylov space."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from wellposed.numerics.euclidean import euclidean
from wellposed.numerics.linear_algebra import solve


def gmres(apply: Callable[[Tensor], Tensor], right: Tensor, steps: int, rtol: float) -> Tensor:
    """Minimise ‖right − apply(x)‖₂ over the Krylov space of each sample, from x = 0.

    Args:
        apply: the linear maps, (batch, n) to (batch, n), samples independent of each other.
        right: right-hand sides, shape (batch, n).
        steps: largest dimension of the Krylov spaces.
        rtol: stop when every residual is below this multiple of its right-hand side.
    """
    size = euclidean(right)
    tiny = torch.finfo(right.dtype).tiny
    basis = [(right / size.clamp_min(tiny)[:, None]).to(right)]
    images: list[Tensor] = []
    weights = right.new_zeros(right.shape[0], 0)
    for _ in range(steps):
        image = apply(basis[-1])
        images.append(image)
        stacked = torch.stack(images, 1)
        # Least squares over the images themselves: small, and robust to lost orthogonality of the basis.
        gram = stacked @ stacked.mT
        diagonal = gram.diagonal(dim1=1, dim2=2)
        ridge = torch.finfo(right.dtype).eps * diagonal.mean(1).clamp_min(tiny)
        gram = gram + torch.diag_embed(ridge[:, None].expand_as(diagonal))
        weights = solve(gram, stacked @ right[:, :, None]).squeeze(2)
        left = right - torch.einsum("bk,bkn->bn", weights, stacked)
        if bool((euclidean(left) <= rtol * size).all()):
            break
        new = image
        for vector in basis:  # modified Gram–Schmidt
            new = new - (vector * new).sum(1, keepdim=True) * vector
        basis.append((new / euclidean(new).clamp_min(tiny)[:, None]).to(right))
    return torch.einsum("bk,bkn->bn", weights, torch.stack(basis[: len(images)], 1))

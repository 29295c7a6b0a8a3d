"""The original monotone DEQ algorithm, as its authors describe it, written from the description as a rival to time.

Peaceman–Rachford on the batch with two tracked states, the four products of W kept apart in the final pass, a
batch-global relative change as the stopping rule, a mask assignment in the adjoint iteration.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class OriginalMonDEQ(nn.Module):
    """Dense layer with ReLU; ``alpha``, ``tol`` and ``max_iter`` as in the original training scripts."""

    def __init__(self, in_features: int, width: int, m: float, alpha: float, tol: float, max_iter: int = 300) -> None:
        super().__init__()
        self.U = nn.Linear(in_features, width)
        self.A = nn.Linear(width, width, bias=False)
        self.B = nn.Linear(width, width, bias=False)
        self.m, self.alpha, self.tol, self.max_iter = m, alpha, tol, max_iter
        self.iterations = (0, 0)

    def multiply(self, z: Tensor) -> Tensor:
        ata = self.A(z) @ self.A.weight
        return (1 - self.m) * z - ata + self.B(z) - z @ self.B.weight

    def resolvent(self) -> Tensor:
        eye = torch.eye(self.A.weight.shape[0], dtype=self.A.weight.dtype)
        a, b = self.A.weight, self.B.weight
        w = (1 - self.m) * eye - a.t() @ a + b - b.t()
        return torch.inverse((1 + self.alpha) * eye - self.alpha * w)

    def forward(self, x: Tensor) -> Tensor:
        v = self.resolvent()
        with torch.no_grad():
            bias = self.U(x)
            z = u = torch.zeros_like(bias)
            for count in range(1, self.max_iter + 1):
                u_half = 2 * z - u
                z_half = (u_half + self.alpha * bias) @ v.t()
                u = 2 * z_half - u_half
                new = torch.relu(u)
                change = torch.linalg.vector_norm(new - z) / (1e-6 + torch.linalg.vector_norm(new))
                z = new
                if change.item() <= self.tol:
                    break
        output = torch.relu(self.multiply(z) + self.U(x))
        return _Adjoint.apply(output, self, v.detach(), (output > 0).to(output.dtype), count)


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx, output, layer, v, j, count):
        ctx.layer, ctx.v, ctx.j, ctx.count = layer, v, j, count
        return output.clone()

    @staticmethod
    def backward(ctx, g):
        layer, v, j = ctx.layer, ctx.v, ctx.j
        alpha = layer.alpha
        infinite = j == 0
        d = (1 - j) / j
        z = u = torch.zeros_like(g)
        jg = j * g
        for count in range(1, layer.max_iter + 1):
            u_half = 2 * z - u
            z_half = u_half @ v
            u = 2 * z_half - u_half
            new = (u + alpha * (1 + d) * jg) / (1 + alpha * d)
            new[infinite] = jg[infinite]
            change = torch.linalg.vector_norm(new - z) / (1e-6 + torch.linalg.vector_norm(new))
            z = new
            if change.item() <= layer.tol:
                break
        layer.iterations = (ctx.count, count)
        with torch.no_grad():
            total = g + _transposed(layer, z)
        return total, None, None, None, None


def _transposed(layer: OriginalMonDEQ, z: Tensor) -> Tensor:
    ata = layer.A(z) @ layer.A.weight
    return (1 - layer.m) * z - ata - layer.B(z) + z @ layer.B.weight

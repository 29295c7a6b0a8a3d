"""Equations z = tanh(Wz + Ux + b) with their solutions and gradients in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_KINDS = {"normal": 0.9, "orthogonal": 0.95, "slow": 0.99}
_INPUTS = 64
_MOST_STEPS = 4000


@dataclass(frozen=True)
class Case:
    """One equation, a cotangent of its solution, and the exact solution with its gradient in the offset."""

    name: str
    weight: Tensor
    inner: Tensor
    bias: Tensor
    x: Tensor
    cotangent: Tensor
    value: Tensor
    gradient: Tensor

    @classmethod
    def make(cls, kind: str, width: int, batch: int) -> Case:
        """An equation of W with ‖W‖₂ = 0.9 and normal entries, or of 0.95 times or 0.99 times an orthogonal matrix.

        Args:
            kind: ``"normal"``, ``"orthogonal"``, or ``"slow"``, where states are so small that tanh is almost linear.
            width: of the state.
            batch: number of samples.
        """
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64, device="cpu")

        matrix, small = draw(width, width), 0.05 if kind == "slow" else 1.0
        unit = matrix / torch.linalg.matrix_norm(matrix, 2) if kind == "normal" else torch.linalg.qr(matrix)[0]
        drawn = (_KINDS[kind] * unit, small / 8 * draw(width, _INPUTS), 0.1 * small * draw(width), draw(batch, _INPUTS))
        stored = [tensor.float() for tensor in (*drawn, draw(batch, width) / width)]
        weight, inner, bias, x, cotangent = (tensor.double() for tensor in stored)
        offset = x @ inner.T + bias
        value = settled(lambda z: cell(z, weight, offset), torch.zeros_like(cotangent))
        slopes = 1.0 - value.square()
        adjoint = settled(lambda y: cotangent + (slopes * y) @ weight, cotangent)
        for tensor in stored[:3]:
            tensor.requires_grad_()
        weight, inner, bias, x, cotangent = stored
        name = f"{kind}, {width} wide, batch {batch}"
        return cls(name, weight, inner, bias, x, cotangent, value, slopes * adjoint)

    def offset(self) -> Tensor:
        """Ux + b, a node of the graph."""
        return torch.addmm(self.bias, self.x, self.inner.T)

    def errors(self, value: Tensor, gradient: Tensor) -> tuple[float, ...]:
        """Median and worst relative error over the samples, of values, then of gradients in the offset."""
        pairs = ((value, self.value), (gradient, self.gradient))
        return tuple(error for found, true in pairs for error in median_and_worst(found, true))


def median_and_worst(found: Tensor, true: Tensor) -> tuple[float, float]:
    """Median and worst relative Euclidean error over the samples of a batch."""
    reference = true.double().flatten(1)
    away = (found.detach().double().reshape(reference.shape) - reference).norm(dim=1) / reference.norm(dim=1)
    return float(away.median()), float(away.max())


def cell(z: Tensor, weight: Tensor, offset: Tensor) -> Tensor:
    """The map tanh(Wz + q)."""
    return torch.tanh(z @ weight.T + offset)


def settled(step: Callable[[Tensor], Tensor], state: Tensor) -> Tensor:
    """The state at which a contraction no longer moves in its own precision."""
    for _ in range(_MOST_STEPS):
        previous, state = state, step(state)
        if torch.equal(previous, state):
            break
    return state

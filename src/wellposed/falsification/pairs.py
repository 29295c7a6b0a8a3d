"""Pairs of inputs, and what is seen of a network at them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wellposed.certificates import Certificate
from wellposed.falsification.tally import Tally
from wellposed.network import Network
from wellposed.network.propagation import BoundedLogits

BASES = 60
LENGTHS = (1e-6, 1e-4, 1e-2, 0.1, 1.0, 10.0)


@dataclass(frozen=True, eq=False, repr=False)
class Pairs:
    """The outputs at pairs of inputs, where they are finite and the inputs differ; float64.

    Attributes:
        change: of the outputs, shape (pairs, outputs).
        error: bound of the Euclidean error of the change, shape (pairs,).
        apart: distance of the inputs, shape (pairs,).
        usable: which of the pairs that were given these are.
    """

    change: Tensor
    error: Tensor
    apart: Tensor
    usable: Tensor

    def __repr__(self) -> str:
        return f"Pairs({len(self.apart)}, of {self.change.shape[1]} outputs)"

    @classmethod
    def between(cls, start: BoundedLogits, end: BoundedLogits, apart: Tensor) -> Pairs:
        """The pairs of outputs at two ends, for inputs that are so far apart."""
        change, error = end.logits.double() - start.logits.double(), (start.error + end.error).double()
        usable = torch.isfinite(change.norm(dim=1) - error) & (apart > 0.0)
        return cls(change[usable], error[usable], apart[usable], usable)

    def slopes(self) -> Tensor:
        """What the Lipschitz constant is at least, by each pair."""
        return (self.change.norm(dim=1) - self.error) / self.apart

    def judge_margins(self, tally: Tally, certificate: Certificate) -> None:
        """Judge the constants of all class margins."""
        if certificate.pairs is None:
            return
        margins = (self.change[:, :, None] - self.change[:, None, :]).abs() - math.sqrt(2.0) * self.error[:, None, None]
        each = margins / self.apart[:, None, None]
        classes = torch.triu_indices(self.change.shape[1], self.change.shape[1], 1, device="cpu")
        for i, j in classes.t().tolist():
            tally.judge(each[:, i, j], float(certificate.pairs[i, j]))


def pairs_of(
    model: nn.Module | Network, inputs: int, spread: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Pairs of inputs, half of them along the gradient of a random combination of the outputs; shapes (pairs, inputs)."""
    base = spread * torch.randn(BASES, inputs, generator=generator, dtype=torch.float64, device="cpu")
    steep = base.clone().requires_grad_()
    with torch.enable_grad():
        value = model(steep)
        weights = torch.randn(value.shape, generator=generator, dtype=torch.float64, device="cpu")
        (gradient,) = torch.autograd.grad((weights * value).sum(), steep)
    directions = []
    for direction in (gradient, torch.randn(base.shape, generator=generator, dtype=torch.float64, device="cpu")):
        size = direction.norm(dim=1, keepdim=True)
        directions.append(torch.where(size > 0.0, direction / size.clamp_min(1e-300), torch.ones_like(direction)))
    second = [base + spread * length * direction for direction in directions for length in LENGTHS]
    return base.repeat(len(second), 1), torch.cat(second)

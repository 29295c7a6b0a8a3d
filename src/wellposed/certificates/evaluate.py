"""Logits with a bound on their error: what a certificate is applied to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wellposed.certificates.lipschitz import blocks_of, factor_of
from wellposed.layers.equilibrium import Equilibrium
from wellposed.norms import euclidean


@dataclass(frozen=True)
class BoundedLogits:
    """Logits and what is known of their error.

    Attributes:
        logits: shape (batch, classes).
        error: bound on ‖logits − true logits‖₂ through solver residuals, shape (batch,).
    """

    logits: Tensor
    error: Tensor


@torch.no_grad()
def bounded_logits(model: nn.Module, x: Tensor) -> BoundedLogits:
    """Evaluate a model and carry the error bounds of its solves to the output.

    Errors of an equilibrium are multiplied by the Lipschitz constants of everything after it. A sample whose solve
    stopped short of its tolerance has a larger error, and one whose solve failed an infinite one.

    Args:
        model: a chain of blocks known to `factor_of`.
        x: inputs, shape (batch, ...).
    """
    error = torch.zeros(x.shape[0], dtype=torch.float64, device=x.device)
    value = x
    for name, block in blocks_of(model):
        error = error * factor_of(name, block).value
        if isinstance(block, Equilibrium):
            solution = block.solve(value)
            value = solution.value
            assert solution.error_bound is not None  # solve() always certifies
            error = error + solution.error_bound.double()
        elif isinstance(block, nn.Linear):
            size = euclidean(value).double()
            value = block(value)
            # γ_n of a product of n terms in the working precision, plus the bias.
            unit = 0.5 * torch.finfo(value.dtype).eps * (block.in_features + 2)
            bias = 0.0 if block.bias is None else float(block.bias.norm())
            error = error + unit * (float(block.weight.norm()) * size + bias) * 1.01
        else:
            value = block(value)
    return BoundedLogits(value, error)

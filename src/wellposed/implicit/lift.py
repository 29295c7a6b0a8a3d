"""Cotangents at the lower end of their dtype, where products underflow: the adjoint equation is solved for multiples."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from wellposed.numerics.euclidean import working_norm
from wellposed.solvers.solution import Report

# A cotangent below the first number, whose products with weights may underflow, is multiplied by the second, a power of two.
_LOW = {torch.float32: 2.0**-86, torch.float64: 2.0**-982}
_LIFT = {torch.float32: 2.0**100, torch.float64: 2.0**900}


def lift_of(cotangent: Tensor) -> Tensor | None:
    """The power of two by which each sample's cotangent is multiplied, one row a sample; one wherever it is of ordinary size.

    None where it is one for every sample, as far as it costs little to know.
    """
    low, lift = _LOW.get(cotangent.dtype, 0.0), _LIFT.get(cotangent.dtype, 1.0)
    plain = cotangent.device.type == "cpu" and not torch._C._functorch.is_functorch_wrapped_tensor(cotangent)
    if plain and cotangent.numel():
        least = float(working_norm(cotangent.detach()).amin())
        if least >= low * (cotangent.numel() / len(cotangent)) ** 0.5:
            return None  # a row's largest entry is its norm over √n or more, and underflow makes that norm smaller
    with torch.no_grad():
        largest = torch.linalg.vector_norm(cotangent.detach().flatten(1), math.inf, dim=1)
        plain = largest.device.type == "cpu" and not torch._C._functorch.is_functorch_wrapped_tensor(largest)
        if plain and largest.numel() and float(largest.amin()) >= low:
            return None
        ones = torch.ones_like(largest)
        factors = torch.where(largest < low, ones * lift, ones)
    return factors.reshape(-1, *(1 for _ in cotangent.shape[1:]))


def lowered(report: Report, lift: Tensor | None) -> Report:
    """A report about multiples, as one about what they are multiples of."""
    if lift is None:
        return report
    factors = lift.flatten().double().reshape(report.residual.shape)
    bound = None if report.error_bound is None else report.error_bound / factors
    residual = (report.residual / factors).to(report.residual.dtype)
    return dataclasses.replace(report, residual=residual, error_bound=bound)

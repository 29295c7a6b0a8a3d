"""Cotangents at the ends of their dtype, where products underflow or overflow: the adjoint equation is solved for multiples."""

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
# Above these, where squares may overflow, it is divided by that power.
_HIGH = {torch.float32: 2.0**60, torch.float64: 2.0**500}


def lift_of(cotangent: Tensor) -> Tensor | None:
    """The power of two by which each sample's cotangent is multiplied, one row a sample; one wherever it is of ordinary size.

    None where it is one for every sample, as far as it costs little to know. It is NaN for a cotangent that is not finite, which
    has no gradient: the adjoint state is divided by it.
    """
    if not cotangent.numel():
        return None
    low, high = _LOW.get(cotangent.dtype, 0.0), _HIGH.get(cotangent.dtype, math.inf)
    plain = cotangent.device.type == "cpu" and not torch._C._functorch.is_functorch_wrapped_tensor(cotangent)
    if plain:
        least, most = torch.aminmax(working_norm(cotangent.detach()))
        # A row's largest entry is its norm over √n or more, and underflow makes that norm smaller.
        if float(least) >= low * (cotangent.numel() / len(cotangent)) ** 0.5 and float(most) <= high:
            return None
    with torch.no_grad():
        largest = torch.linalg.vector_norm(cotangent.detach().flatten(1), math.inf, dim=1)
        plain = largest.device.type == "cpu" and not torch._C._functorch.is_functorch_wrapped_tensor(largest)
        if plain and float(largest.amin()) >= low and float(largest.amax()) <= high:
            return None
        ones, lift = torch.ones_like(largest), _LIFT.get(cotangent.dtype, 1.0)
        factors = torch.where(largest < low, ones * lift, torch.where(largest > high, ones / lift, ones))
        factors = torch.where(largest < math.inf, factors, ones * math.nan)
    return factors.reshape(-1, *(1 for _ in cotangent.shape[1:]))


def lowered(report: Report, lift: Tensor | None) -> Report:
    """A report about multiples, as one about what they are multiples of."""
    if lift is None:
        return report
    factors = lift.flatten().double().reshape(report.residual.shape)
    bound = None if report.error_bound is None else report.error_bound / factors
    residual = (report.residual / factors).to(report.residual.dtype)
    return dataclasses.replace(report, residual=residual, error_bound=bound)

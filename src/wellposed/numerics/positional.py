"""Differentiable functions with little overhead per call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import unwrap_if_dead
from torch.autograd import Function


class PositionalFunction(Function):
    """An autograd function that is called with all its arguments in order.

    Outside ``torch.func`` transforms, torch works out the signature of ``forward`` at every call to fill in defaults, at
    the price of a small matrix product; with positional arguments there is nothing to fill in.
    """

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """As `torch.autograd.Function.apply`, for positional arguments."""
        if torch._C._are_functorch_transforms_active():
            return super().apply(*args)
        alive = [unwrap_if_dead(given) if isinstance(given, Tensor) else given for given in args]
        return super(Function, cls).apply(*alive)  # type: ignore[misc]  # defined in C

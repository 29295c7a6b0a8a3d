"""Differentiable constants of models: what training makes small for larger certified radii."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wellposed.errors import InputError, shown
from wellposed.numerics.linear_algebra import largest_singular_value


def product_of_norms(model: nn.Module) -> Tensor:
    """The product of the spectral norms of all linear layers, with its graph; rounding is not counted.

    Product certificates multiply these norms, and besides them the constants of the other blocks.

    Args:
        model: any module; 1 where it has no `torch.nn.Linear`.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model={shown(model)}: must be a torch.nn.Module")
    maps = [part for part in model.modules() if isinstance(part, nn.Linear)]
    norms = [largest_singular_value(part.weight) for part in maps]
    return torch.stack(norms).prod() if norms else torch.ones((), device="cpu")

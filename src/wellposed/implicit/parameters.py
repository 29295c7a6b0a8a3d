"""Modules as functions of their parameters, shared ones included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def parameter_places(module: nn.Module) -> dict[str, tuple[str, ...]]:
    """Each parameter's first name, and one name for every place where it is stored.

    A submodule that a module has twice is one place; two submodules with one tied parameter are two.
    """
    first: dict[nn.Parameter, str] = {}
    places: dict[str, tuple[str, ...]] = {}
    for prefix, part in module.named_modules():
        for own, parameter in part._parameters.items():
            if parameter is not None:
                name = f"{prefix}.{own}" if prefix else own
                known = first.setdefault(parameter, name)
                places[known] = (*places.get(known, ()), name)
    return places


def call_with(
    module: nn.Module, places: Mapping[str, tuple[str, ...]], tensors: Mapping[str, Tensor], args: tuple[Any, ...]
) -> Any:
    """The module's value with other tensors for parameters; its own are in place again afterwards, whatever happens.

    Args:
        module: the module.
        places: its `parameter_places`.
        tensors: by the parameters' first names.
        args: of the module.
    """
    # torch ties names by itself, but of one submodule under two names it then leaves the tensors behind.
    everywhere = {name: tensor for known, tensor in tensors.items() for name in places[known]}
    return torch.func.functional_call(module, everywhere, args, tie_weights=False)

"""Modules as functions of their parameters, shared ones included."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

_locks: weakref.WeakKeyDictionary[nn.Module, threading.RLock] = weakref.WeakKeyDictionary()
_of_locks = threading.Lock()


def exchange_of(module: nn.Module) -> threading.RLock:
    """The lock of whoever has other tensors in the place of a module's own, or reads which are its own."""
    with _of_locks:
        return _locks.setdefault(module, threading.RLock())


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
    with exchange_of(module):
        if all(_serves(module.get_parameter(known), tensor) for known, tensor in tensors.items()):
            return module(*args)
        # torch ties names by itself, but of one submodule under two names it then leaves the tensors behind.
        everywhere = {name: tensor for known, tensor in tensors.items() for name in places[known]}
        return torch.func.functional_call(module, everywhere, args, tie_weights=False)


def _serves(own: Tensor, given: Tensor) -> bool:
    """Whether a module's own tensor does for another one: it is the same, or has the same memory and nothing records a graph."""
    if own is given:
        return True
    return not torch.is_grad_enabled() and forward_ad._current_level < 0 and is_in_same_memory(own, given)


def is_in_same_memory(own: Tensor, given: Tensor) -> bool:
    """Whether two tensors are the same entries of one memory; False where they have no numbers of their own."""
    if own.is_meta or any(torch._C._functorch.is_functorch_wrapped_tensor(part) for part in (own, given)):
        return False
    if own.device != given.device or own.dtype != given.dtype or not own.layout == given.layout == torch.strided:
        return False
    return own.is_set_to(given) and own.is_neg() == given.is_neg() and own.is_conj() == given.is_conj()

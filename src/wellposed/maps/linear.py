"""Input maps that are matrices of parameters, as `torch.nn.Linear`."""

from __future__ import annotations

from abc import ABCMeta
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torch.nn.utils import parametrize
from typing_extensions import override

from wellposed.errors import InputError
from wellposed.maps.base import FlatMap, InputMap


class LinearMap(nn.Linear, FlatMap, InputMap):
    """`torch.nn.Linear` as the input map of a layer, with its options and its state dict."""

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None) -> LinearMap:
        """A map with these numbers as they are, float64 on the CPU, not to be trained.

        Args:
            weight: shape (out_features, in_features).
            bias: shape (out_features,), or None.
        """
        found = cls(
            weight.shape[1], weight.shape[0], bias=bias is not None, dtype=torch.float64, device="meta"
        )  # without draws
        for name, part in (("weight", weight), ("bias", bias)):
            if part is not None:
                numbers = part.detach().double().cpu().contiguous()
                setattr(found, name, nn.Parameter(numbers, requires_grad=False))
        return found

    @property
    @override
    def stored(self) -> Tensor:
        return self.weight

    @override
    def product(self) -> tuple[Tensor, Tensor | None] | None:
        kind = type(self)
        if kind.forward is not nn.Linear.forward or kind.__call__ is not nn.Module.__call__ or "forward" in vars(self):
            return None
        hooks = self._forward_hooks or self._forward_pre_hooks or self._backward_hooks or self._backward_pre_hooks
        return None if hooks or _has_any_global_hook() else (self.weight, self.bias)


def input_map(given: nn.Module) -> InputMap:
    """An input map as it is; a `torch.nn.Linear`, parametrised or not, becomes a `LinearMap`, with its parameters and hooks.

    Raises:
        InputError: the module is neither.
    """
    if isinstance(given, InputMap):
        return given
    kind = type(given)
    if kind is nn.Linear:
        given.__class__ = LinearMap
    elif kind.__bases__ == (nn.Linear,) and parametrize.is_parametrized(given):
        # What torch makes of a parametrised module: a class of its own, which has the properties.
        own: Any = ABCMeta(f"Parametrized{LinearMap.__name__}", (LinearMap,), dict(vars(kind)))
        given.__class__ = own
    else:
        raise InputError(
            f"injection: is a {kind.__name__}; must be a torch.nn.Linear or inherit from wellposed.maps.InputMap, or from "
            "wellposed.maps.LinearMap where it is a matrix"
        )
    found: Any = given
    return found

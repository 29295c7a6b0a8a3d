"""Modules whose weights are formed from free parameters, until they are held: then they run with the numbers formed last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


class Holding(nn.Module):
    """A module that can hold what it forms.

    Attributes:
        forms: names of the attributes, or of methods without arguments, that are formed from free parameters by `formed`.
    """

    forms: ClassVar[tuple[str, ...]] = ("weight",)

    def formed(self, name: str, form: Callable[[], T]) -> T:
        """What is held under a name, or else what ``form`` makes of the free parameters: a tensor, several, or None."""
        kept = vars(self).get("_kept")
        return form() if kept is None else kept[name]

    @torch.no_grad()
    def hold(self) -> None:
        """Form the weights for the last time: from now on the module runs with the numbers that they have now."""
        found = {}
        for name in self.forms:
            value: Any = getattr(self, name)
            found[name] = _each(value() if callable(value) else value, lambda tensor: tensor.detach().clone())
        self._kept = found

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        kept = vars(self).get("_kept")
        if kept is not None:
            self._kept = {name: _each(value, fn) for name, value in kept.items()}
        return self


def _each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, tuple):
        return tuple(_each(part, change) for part in value)
    return None if value is None else change(value)

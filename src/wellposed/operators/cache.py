"""What was computed for recent weights, looked up by their numbers."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

T = TypeVar("T")
Numbers = np.ndarray[Any, np.dtype[Any]]

_KEPT = 2


def version_of(tensor: Tensor) -> int | None:
    """The counter of writes to a tensor, or None for those made in inference mode, which have none."""
    return None if tensor.is_inference() else tensor._version


class Entry:
    """What was computed for some tensors, with copies of them that nobody else can write to.

    Attributes:
        tensors: the copies.
    """

    def __init__(self, tensors: tuple[Tensor, ...]) -> None:
        self.tensors = tuple(tensor.clone() for tensor in tensors)
        self._numbers = [_numbers_of(tensor) for tensor in self.tensors]
        self._remembered: dict[Hashable, Any] = {}

    @property
    def tensor(self) -> Tensor:
        """The first copy."""
        return self.tensors[0]

    def holds(self, tensors: tuple[Tensor, ...], numbers: list[Numbers | None]) -> bool:
        """Whether these are the same numbers.

        Args:
            tensors: of any shapes.
            numbers: their numbers, as far as they can be had.
        """
        if len(tensors) != len(self.tensors):
            return False
        for kept, given, one, other in zip(self.tensors, tensors, self._numbers, numbers, strict=True):
            if kept.dtype != given.dtype or kept.device != given.device or kept.shape != given.shape:
                return False
            if one is None or other is None:
                if not torch.equal(kept, given):
                    return False
            # torch.equal compares number by number, which takes four times as long. Of changed weights the first mostly differs.
            elif one.size and (one.item(0) != other.item(0) or not (one == other).all()):
                return False
        return True

    def is_of(self, *tensors: Tensor) -> bool:
        """Whether tensors still hold the numbers that the entry is of."""
        own = tuple(tensor.detach() for tensor in tensors)
        return self.holds(own, [_numbers_of(tensor) for tensor in own])

    def __contains__(self, key: Hashable) -> bool:
        return key in self._remembered

    def remembered(self, key: Hashable, compute: Callable[[], T]) -> T:
        """The value of that name, computed once."""
        known = self._remembered
        if key not in known:
            known[key] = compute()
        return known[key]


def _numbers_of(tensor: Tensor) -> Numbers | None:
    """The numbers of a real tensor on the CPU, without copying them; None of others."""
    readable = tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.float64)
    if readable and not torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        return tensor.resolve_neg().numpy()
    return None


class FactorisationCache:
    """Cayley transforms and whatever else was computed of recent weights, looked up by *value*.

    Comparing the numbers themselves costs n² and cannot be fooled by any way of changing a weight; identity or version
    counters miss writes through ``.data``. An entry's parts are complete before they are published, so concurrent
    solves cannot see a half-written one.

    Attributes:
        factorisations: how many times something was factorised so far.
    """

    def __init__(self) -> None:
        self._entries: tuple[Entry, ...] = ()
        self.factorisations = 0

    def entry(self, *tensors: Tensor) -> Entry:
        """The entry of these numbers, new if they were not seen recently."""
        numbers = [_numbers_of(tensor) for tensor in tensors]
        for entry in self._entries:
            if entry.holds(tensors, numbers):
                return entry
        entry = Entry(tensors)
        self._entries = (entry, *self._entries[: _KEPT - 1])
        return entry

    def transform(self, entry: Entry, key: Hashable, compute: Callable[..., T]) -> T:
        """The Cayley transform of that name, by ``compute`` from the entry's tensors if it is not there yet."""

        def factorise() -> T:
            self.factorisations += 1
            return compute(*entry.tensors)

        return entry.remembered(("cayley", key), factorise)

"""What was computed for recent weights, looked up by their numbers."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

_KEPT = 2


class Entry:
    """What was computed for one tensor, with a copy of it that nobody else can write to.

    Attributes:
        tensor: the copy.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.clone()
        self._remembered: dict[Hashable, Any] = {}

    def remembered(self, key: Hashable, compute: Callable[[], T]) -> T:
        """The value of that name, computed once."""
        known = self._remembered
        if key not in known:
            known[key] = compute()
        return known[key]


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

    def entry(self, tensor: Tensor) -> Entry:
        """The entry of these numbers, new if they were not seen recently."""
        for entry in self._entries:
            kept = entry.tensor
            if kept.dtype == tensor.dtype and kept.device == tensor.device and torch.equal(kept, tensor):
                return entry
        entry = Entry(tensor)
        self._entries = (entry, *self._entries[: _KEPT - 1])
        return entry

    def transform(self, entry: Entry, step: float, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """The Cayley transform at a step, by ``compute`` from the entry's tensor if it is not there yet."""

        def factorise() -> Tensor:
            self.factorisations += 1
            return compute(entry.tensor)

        return entry.remembered(("cayley", step), factorise)

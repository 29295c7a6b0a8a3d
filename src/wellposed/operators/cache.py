"""What was computed for recent weights, looked up by their numbers."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

T = TypeVar("T")

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
        self._remembered: dict[Hashable, Any] = {}

    @property
    def tensor(self) -> Tensor:
        """The first copy."""
        return self.tensors[0]

    def holds(self, tensors: tuple[Tensor, ...]) -> bool:
        """Whether these are the same numbers."""
        return len(tensors) == len(self.tensors) and all(
            kept.dtype == given.dtype and kept.device == given.device and _same_numbers(kept, given)
            for kept, given in zip(self.tensors, tensors, strict=True)
        )

    def __contains__(self, key: Hashable) -> bool:
        return key in self._remembered

    def remembered(self, key: Hashable, compute: Callable[[], T]) -> T:
        """The value of that name, computed once."""
        known = self._remembered
        if key not in known:
            known[key] = compute()
        return known[key]


def _same_numbers(kept: Tensor, given: Tensor) -> bool:
    """Whether two tensors of one dtype on one device are of the same shape and hold the same numbers."""
    readable = kept.device.type == "cpu" and kept.dtype in (torch.float32, torch.float64)
    if readable and not any(map(torch._C._functorch.is_functorch_wrapped_tensor, (kept, given))):
        # torch.equal compares number by number, which takes four times as long. Changed weights mostly differ in the first row.
        one, other = kept.resolve_neg().numpy(), given.resolve_neg().numpy()
        return np.array_equal(one[:1], other[:1]) and np.array_equal(one, other) if one.ndim else one == other
    return torch.equal(kept, given)


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
        for entry in self._entries:
            if entry.holds(tensors):
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

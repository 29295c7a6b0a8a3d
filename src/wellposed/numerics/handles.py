"""Numbers that stand for living objects of this process, where only numbers and tensors can be handed over."""

from __future__ import annotations

import itertools
import weakref
from typing import Any

from wellposed.errors import InputError

_numbers = itertools.count(1)
_living: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()


def registered(thing: object) -> int:
    """A number that no other object of this process has or had, under which the object is found while it lives."""
    number = next(_numbers)
    _living[number] = thing
    return number


def found(handle: int) -> Any:
    """The object that a number stands for.

    Raises:
        InputError: it does not live any more.
    """
    thing = _living.get(handle)
    if thing is None:
        raise InputError(
            "torch.compile: a layer, or the graphs that it was given, do not exist any more; keep them until after backward"
        )
    return thing

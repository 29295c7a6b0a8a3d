"""Generators of random numbers that a module may draw from: looked at, and put back."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


def generator_states() -> tuple[Any, ...]:
    """States of the generators of torch, Python and numpy, to be compared."""
    numbers: Any = np.random.get_state(legacy=True)  # noqa: NPY002
    return torch.random.get_rng_state().numpy().tobytes(), random.getstate(), numbers[1].tobytes(), numbers[2:]


def surely_drawn(before: tuple[Any, ...]) -> bool:
    """Whether random numbers were drawn since then, and by nobody but this thread.

    With other threads around nothing is known of who drew: then two readings, and the comparison on probe inputs, tell chance.
    """
    return generator_states() != before and threading.active_count() == 1


@contextlib.contextmanager
def generators_kept() -> Iterator[None]:
    """Put the generators back to where they were, whatever is drawn meanwhile."""
    before = torch.random.get_rng_state(), random.getstate(), np.random.get_state(legacy=True)  # noqa: NPY002
    try:
        yield
    finally:
        torch.random.set_rng_state(before[0])
        random.setstate(before[1])
        np.random.set_state(before[2])  # noqa: NPY002

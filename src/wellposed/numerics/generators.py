"""Random generators that are left as they were."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def same_generators() -> Iterator[None]:
    """Leave the global random generators of torch, numpy and Python as they were, whatever draws or seeds in between."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 - others' programs may use it
    devices = range(torch.cuda.device_count())
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002

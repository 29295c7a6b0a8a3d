"""Modules that evaluate for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """A module in eval mode; when it is over, every part of it is in the mode that it had.

    Args:
        model: any module, parts of which may be frozen in eval mode while others train.
    """
    modes = [(part, part.training) for part in model.modules()]
    try:
        yield model.eval()
    finally:
        for part, mode in modes:
            part.training = mode

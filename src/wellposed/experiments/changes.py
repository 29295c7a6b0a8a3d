"""Every way to make a model compute something else than its classes and numbers said when it was certified."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from wellposed.experiments.change import Change
from wellposed.experiments.changed_behaviour import behaviour
from wellposed.experiments.changed_values import values
from wellposed.experiments.model_parts import parts


def changes(model: nn.Module) -> Iterator[Change]:
    """All changes of a model, part by part, always in the same order.

    Args:
        model: is only looked at.
    """
    for part in parts(model):
        yield from behaviour(part)
        yield from values(model, part)

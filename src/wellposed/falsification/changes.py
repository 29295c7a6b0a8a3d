"""Every way to make a model compute something else than its classes and numbers said when it was certified."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

from torch import nn

from wellposed.falsification.change import Change
from wellposed.falsification.changed_behaviour import behaviour
from wellposed.falsification.changed_values import OF_THE_SOLVE, values
from wellposed.falsification.model_parts import parts


def changes(model: nn.Module) -> Iterator[Change]:
    """All changes of a model, part by part, always in the same order.

    Args:
        model: is only looked at.
    """
    for part in parts(model):
        inside = any(name in OF_THE_SOLVE for name in part.path)
        for change in itertools.chain(behaviour(part), values(model, part)):
            yield replace(change, of_the_solve=inside or change.kind == "solve")

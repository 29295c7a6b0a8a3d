"""A change of a model that has a certificate."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from torch import nn

Apply = Callable[[nn.Module, ExitStack], None]


@dataclass(frozen=True)
class Change:
    """A change of one part of a model.

    Attributes:
        kind: of the change, such as ``"hook"``.
        name: the part and what is done to it; unique among the changes of a model.
        apply: makes the change on a copy of the model; what goes beyond the model is undone when the stack closes.
    """

    kind: str
    name: str
    apply: Apply

    @property
    def of_the_solve(self) -> bool:
        """Whether only the way to the equilibrium is changed: which algorithm, how exact, how long, how differentiated."""
        return self.kind == "solve"

    @property
    def of_the_library(self) -> bool:
        """Whether classes are changed, so that everything is, until the change is undone."""
        return self.kind in ("class", "global hook")

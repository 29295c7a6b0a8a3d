"""A change of a model that has a certificate."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from wellposed.falsification.model_parts import Part, assign
from wellposed.falsification.slopes import NOISE

Apply = Callable[[nn.Module, ExitStack], None]


@dataclass(frozen=True)
class Change:
    """A change of one part of a model.

    Attributes:
        kind: of the change, such as ``"hook"``.
        name: the part and what is done to it; unique among the changes of a model.
        apply: makes the change on a copy of the model; what goes beyond the model is undone when the stack closes.
        of_the_solve: whether only the way to the equilibrium is changed: which algorithm, how exact, how long.
    """

    kind: str
    name: str
    apply: Apply
    of_the_solve: bool = False

    @property
    def of_the_library(self) -> bool:
        """Whether classes are changed, so that everything is, until the change is undone."""
        return self.kind in ("class", "global hook")

    @property
    def noise(self) -> float:
        """Relative error that outputs of the changed model may have, as its solves are less exact or rounding differs."""
        return 1e-3 if self.of_the_solve else NOISE


def setting(part: Part, name: str, value: Any) -> Apply:
    """Another value for an attribute of a part."""

    def apply(model: nn.Module, stack: ExitStack) -> None:
        assign(part.own(model), name, value)

    return apply


def acting(part: Part, act: Callable[[Any], object]) -> Apply:
    """An action on a part."""

    def apply(model: nn.Module, stack: ExitStack) -> None:
        with torch.no_grad():
            act(part.of(model))

    return apply


def putting(part: Part, make: Callable[[], Any]) -> Apply:
    """Another part in the place of one, always with the same random numbers."""

    def apply(model: nn.Module, stack: ExitStack) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            part.put(model, make())

    return apply

"""Blocks that are more than a chain: branches that part and are summed up again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor, nn

from wellposed.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """One step inside of branches.

    Attributes:
        name: of the step.
        sources: places of the steps that it takes its inputs from; −1 is the input of the branches.
        signs: of the terms of a sum, 1 or −1; empty for a block, which has one source.
    """

    name: str
    sources: tuple[int, ...]
    signs: tuple[float, ...] = ()


class Branches(nn.Module):
    """A graph of blocks and sums between one input and one output; the last step is the output.

    Args:
        places: the steps, each after those that it takes its inputs from.
        blocks: the module of every step; None for sums.
    """

    def __init__(self, places: Sequence[Place], blocks: Sequence[nn.Module | None]) -> None:
        super().__init__()
        self.places = tuple(places)
        self.parts = nn.ModuleList([nn.Identity() if block is None else block for block in blocks])

    def steps(self) -> list[tuple[Place, nn.Module]]:
        """The steps in order, with their modules; that of a sum means nothing."""
        return list(zip(self.places, self.parts, strict=True))

    def fold(
        self, start: T, block: Callable[[str, nn.Module, T], T], total: Callable[[tuple[float, ...], list[T]], T]
    ) -> T:
        """Something that is known of the input, carried through to the output.

        Args:
            start: what is known of the input.
            block: what follows for the value of a block from what is known of its input.
            total: what follows for a signed sum from what is known of its terms.
        """
        known: list[T] = []
        for place, part in self.steps():
            taken = [start if source < 0 else known[source] for source in place.sources]
            known.append(total(place.signs, taken) if place.signs else block(place.name, part, taken[0]))
        return known[-1]

    def forward(self, x: Tensor) -> Tensor:
        """The value of the last step."""
        return self.fold(x, lambda name, part, value: part(value), signed_sum)


def signed_sum(signs: tuple[float, ...], terms: list[Tensor]) -> Tensor:
    """The sum of terms with signs 1 or −1, of tensors of one shape.

    Raises:
        InputError: they have several shapes.
    """
    shapes = {tuple(term.shape) for term in terms}
    if len(shapes) > 1:
        raise InputError(
            f"x: branches of shapes {sorted(shapes)} are summed up; a network's branches must have one shape"
        )
    value = terms[0] if signs[0] > 0 else -terms[0]
    for sign, term in zip(signs[1:], terms[1:], strict=True):
        value = value + term if sign > 0 else value - term
    return value

"""Sums of branches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.errors import InputError
from wellposed.network.branches import Branches, signed_sum
from wellposed.network.deployed import DeployedGraph, Edge
from wellposed.network.kinds.block import Block, Interval, Shape, block_of, kind_of
from wellposed.network.propagation import Own, Point, Step
from wellposed.numerics.euclidean import euclidean, underflow
from wellposed.numerics.norm import Norm
from wellposed.numerics.outward import above, below, next_up

T = TypeVar("T")


@kind_of(Branches)
class BranchesBlock(Block):
    """A graph of blocks and sums: constants multiply along each branch, and add up where branches meet."""

    def __init__(self, name: str, module: Any) -> None:
        super().__init__(name, module)
        self._inner = {place.name: block_of(place.name, part) for place, part in module.steps() if not place.signs}

    def fold(self, start: T, block: Callable[[Block, T], T], total: Callable[[tuple[float, ...], list[T]], T]) -> T:
        """What is known of the input, carried through to the output.

        Args:
            start: what is known of the input.
            block: what follows for the value of a block from what is known of its input.
            total: what follows for a signed sum from what is known of its terms.
        """
        return self.module.fold(start, lambda name, _, before: block(self._inner[name], before), total)

    @override
    def constant(self, norm: Norm) -> tuple[float, str]:
        value = self.fold(1.0, lambda block, before: next_up(before * block.constant(norm)[0]), _summed_constants)
        return value, "sums of branches, each the product of its blocks' constants"

    @override
    def through(self, point: Point, *, forward: bool) -> Point:
        return self.fold(point, lambda block, before: block.through(before, forward=forward), _summed_points)

    @override
    def interval(self, lower: Tensor, upper: Tensor) -> Interval:
        return self.fold((lower, upper), lambda block, before: block.interval(*before), _summed_intervals)

    @override
    def deploy(self, graph: DeployedGraph, edge: Edge) -> Edge:
        return self.fold(
            edge,
            lambda block, before: block.deploy(graph, before),
            lambda signs, terms: _summed_edges(graph, signs, terms),
        )

    @override
    def output_shape(self, shape: Shape, dtype: torch.dtype) -> Shape:
        def summed(signs: tuple[float, ...], shapes: list[Shape]) -> Shape:
            if len(set(shapes)) > 1:
                raise InputError(f"{self.name}: sums up branches of shapes {sorted(set(shapes))}")
            return shapes[0]

        return self.fold(shape, lambda block, given: block.output_shape(given, dtype), summed)


def _summed_edges(graph: DeployedGraph, signs: tuple[float, ...], terms: list[Edge]) -> Edge:
    """A signed sum, appended to a deployed network."""
    total = terms[0]
    if signs[0] < 0.0:
        one = torch.ones(1, device="cpu")
        total = graph.call("Affine", total, shape=total.shape, scale=-one, shift=0.0 * one)
    for sign, term in zip(signs[1:], terms[1:], strict=True):
        total = graph.call("SumOfTwo" if sign > 0.0 else "DifferenceOfTwo", total, term, shape=total.shape)
    return total


def _summed_constants(signs: tuple[float, ...], constants: list[float]) -> float:
    """The Lipschitz constant of a sum from those of its terms, rounded up."""
    return sum(constants) * (1.0 + len(constants) * 2.0**-52) if len(signs) > 1 else constants[0]


def _summed_intervals(signs: tuple[float, ...], terms: list[Interval]) -> Interval:
    """Bounds of a signed sum; every addition rounds once."""
    ordered = [(term if sign > 0.0 else (-term[1], -term[0])) for sign, term in zip(signs, terms, strict=True)]
    lower, upper = ordered[0]
    for least, largest in ordered[1:]:
        lower, upper = below(lower + least), above(upper + largest)
    return lower, upper


def _summed_points(signs: tuple[float, ...], points: list[Point]) -> Point:
    """The value of a signed sum; every addition rounds once."""
    value = signed_sum(signs, [point.value for point in points])
    errors, solved = points[0].errors, points[0].solved
    for point in points[1:]:
        errors, solved = errors.plus(point.errors), solved & point.solved
    unit = torch.finfo(value.dtype).eps
    lost = underflow(value.dtype, value[0].numel(), 2) if len(value) else 0.0
    own = Own(unit * euclidean(value).double() + lost, 0.0, unit)
    return Point(value, errors.through(1.0, [Step(own, value, 1.0)]), solved)

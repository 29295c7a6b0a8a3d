"""Baselines: explicit networks, with and without a Lipschitz bound, and the plain equilibrium model."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from wellposed.errors import check, choices
from wellposed.models.families.base import Family, check_depth
from wellposed.names import ACTIVATIONS

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class DEQFamily(Family):
    """Plain deep equilibrium model (Bai et al. 2019): no guarantee of any kind."""

    name: ClassVar[str] = "deq"

    activation: str = "tanh"
    """Activation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        choices("activation", self.activation, ACTIVATIONS)

    @override
    def build(self, shape: tuple[int, ...], classes: int) -> tuple[nn.Module, ...]:
        from torch import nn

        from wellposed.layers import DEQ

        layer = DEQ(math.prod(shape), self.width, activation=self.activation, rtol=self.rtol)
        return layer, nn.Linear(self.width, classes)


@dataclass(frozen=True)
class _Layered(Family):
    depth: int = 3
    """Number of hidden layers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_depth(self.depth)


@dataclass(frozen=True)
class FeedForwardFamily(_Layered):
    """Explicit network with ReLU."""

    name: ClassVar[str] = "feedforward"

    widths: tuple[int, ...] = ()
    """Features of every hidden layer, where they differ; then width and depth say nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "widths", tuple(self.widths))  # TOML has lists
        check(all(width > 0 for width in self.widths), "widths", self.widths, "must be positive")

    @override
    def build(self, shape: tuple[int, ...], classes: int) -> tuple[nn.Module, ...]:
        from torch import nn

        sizes = [math.prod(shape), *(self.widths or [self.width] * self.depth)]
        hidden = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
        return (*hidden, nn.Linear(sizes[-1], classes))


@dataclass(frozen=True)
class ConvolutionalFamily(_Layered):
    """Explicit convolutional network with ReLU; every second layer halves the image."""

    name: ClassVar[str] = "convolutional"
    domains: ClassVar[tuple[str, ...]] = ("images",)

    width: int = 32
    """Channels."""
    widths: tuple[int, ...] = ()
    """Channels of every convolution, where they differ; then width and depth say nothing."""
    hidden: int = 0
    """Units of a hidden layer between the whole last image and the logits; 0 for averages and a linear head."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "widths", tuple(self.widths))  # TOML has lists
        check(all(width > 0 for width in self.widths), "widths", self.widths, "must be positive")
        check(self.hidden >= 0, "hidden", self.hidden, "must not be negative")

    @override
    def build(self, shape: tuple[int, ...], classes: int) -> tuple[nn.Module, ...]:
        from torch import nn

        parts: list[nn.Module] = [nn.Unflatten(1, shape)]
        sizes = [shape[0], *(self.widths or [self.width] * self.depth)]
        for index, (before, after) in enumerate(itertools.pairwise(sizes)):
            parts += [nn.Conv2d(before, after, 3, stride=1 + index % 2, padding=1), nn.ReLU()]
        if not self.hidden:
            return (*parts, nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(9 * sizes[-1], classes))
        halved = 2 ** ((len(sizes) - 1) // 2)
        rows, columns = (-(-extent // halved) for extent in shape[1:])
        linear = nn.Linear(sizes[-1] * rows * columns, self.hidden)
        return (*parts, nn.Flatten(), linear, nn.ReLU(), nn.Linear(self.hidden, classes))


@dataclass(frozen=True)
class SandwichFamily(_Layered):
    """Sandwich network, LBDN (Wang & Manchester 2023): 1-Lipschitz from pixels to logits."""

    name: ClassVar[str] = "sandwich"
    scales_input: ClassVar[bool] = False

    @override
    def build(self, shape: tuple[int, ...], classes: int) -> tuple[nn.Module, ...]:
        from wellposed.layers import OrthogonalLinear, Sandwich

        sizes = [math.prod(shape)] + [self.width] * self.depth
        hidden = [Sandwich(a, b) for a, b in itertools.pairwise(sizes)]
        return (*hidden, OrthogonalLinear(self.width, classes))


@dataclass(frozen=True)
class SLLFamily(_Layered):
    """SDP-based residual network (Araujo et al. 2023): 1-Lipschitz from pixels to logits."""

    name: ClassVar[str] = "sll"
    scales_input: ClassVar[bool] = False

    @override
    def build(self, shape: tuple[int, ...], classes: int) -> tuple[nn.Module, ...]:
        from wellposed.layers import SLL, OrthogonalLinear

        hidden = [SLL(self.width, 2 * self.width) for _ in range(self.depth)]
        return (OrthogonalLinear(math.prod(shape), self.width), *hidden, OrthogonalLinear(self.width, classes))


@dataclass(frozen=True)
class CayleyFamily(_Layered):
    """Orthogonal network with MaxMin (Trockman & Kolter 2021): 1-Lipschitz from pixels to logits."""

    name: ClassVar[str] = "cayley"
    scales_input: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.width % 2 == 0, "width", self.width, "must be even, for MaxMin")

    @override
    def build(self, shape: tuple[int, ...], classes: int) -> tuple[nn.Module, ...]:
        from wellposed.layers import GroupSort, OrthogonalLinear

        sizes = [math.prod(shape)] + [self.width] * self.depth
        hidden = [part for a, b in itertools.pairwise(sizes) for part in (OrthogonalLinear(a, b), GroupSort())]
        return (*hidden, OrthogonalLinear(self.width, classes))

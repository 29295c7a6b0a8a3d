"""Functions of single entries, and maps that move entries or drop nothing in eval mode."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from typing_extensions import override

from wellposed.activations import Activation, name_of, of_module
from wellposed.errors import CertificateError
from wellposed.layers.group_sort import GroupSort
from wellposed.network.deployed import DeployedGraph, Edge
from wellposed.network.kinds.block import Block, Interval, Shape, kind_of
from wellposed.network.pointwise import Elementwise, Reshape
from wellposed.network.propagation import Own
from wellposed.numerics.euclidean import euclidean
from wellposed.numerics.norm import Norm


class _Nonexpansive(Block):
    """A block that is 1-Lipschitz in every norm by its class alone, increases in every entry, and whose arithmetic is exact."""

    contracts_entries = nonexpansive = True

    @override
    def constant(self, norm: Norm) -> tuple[float, str]:
        return 1.0, "nonexpansive"

    @override
    def relative_rounding(self, value: Tensor, image: Tensor) -> Own:
        return Own()

    @override
    def interval(self, lower: Tensor, upper: Tensor) -> Interval:
        return self.module(lower), self.module(upper)


@kind_of(nn.Identity)
class IdentityBlock(_Nonexpansive):
    """What leaves everything as it is."""

    moves = only_shapes = elementwise = is_identity = increasing = True

    @override
    def deploy(self, graph: DeployedGraph, edge: Edge) -> Edge:
        return edge


@kind_of(nn.Flatten)
class FlattenBlock(_Nonexpansive):
    """Entries of a sample in a shape with fewer dimensions."""

    moves = only_shapes = increasing = True

    @override
    def require_usable(self) -> None:
        require_whole_samples(self, self.module.start_dim)

    @property
    @override
    def makes_vectors(self) -> bool:  # type: ignore[override]
        return self.module.start_dim == 1 and self.module.end_dim in (-1, 3)

    @override
    def pull_back(self, rows: Tensor, shape: Shape) -> Tensor | None:
        # Any other way of flattening would mix up the channels and pixels that a head sees.
        return rows if self.makes_vectors or len(shape) == 1 else None

    @override
    def deploy(self, graph: DeployedGraph, edge: Edge) -> Edge:
        return reshaped(self, graph, edge)


@kind_of(Reshape)
class ReshapeBlock(_Nonexpansive):
    """Samples in another shape."""

    only_shapes = increasing = True

    @override
    def deploy(self, graph: DeployedGraph, edge: Edge) -> Edge:
        return reshaped(self, graph, edge)


@kind_of(nn.Unflatten)
class UnflattenBlock(ReshapeBlock):
    """Entries of a sample in a shape with more dimensions."""

    @override
    def require_usable(self) -> None:
        require_whole_samples(self, self.module.dim)


def require_whole_samples(block: Block, first: int) -> None:
    """Refuse a change of shape that reaches the samples of a batch.

    Args:
        block: which changes shapes.
        first: the first dimension that it changes.
    """
    if first == 0:
        raise CertificateError(f"{block.name}: {block.module} mixes the samples of a batch; use start_dim=1")


@kind_of(nn.ReLU, nn.Hardtanh)
class ClampingBlock(_Nonexpansive):
    """Functions that keep entries, or replace them by zero or by a bound."""

    elementwise = True

    @override
    def deploy(self, graph: DeployedGraph, edge: Edge) -> Edge:
        return activated(self, of_module(self.module), graph, edge)


@kind_of(nn.Dropout)
class DropoutBlock(ClampingBlock):
    """Dropout in eval mode, which does nothing."""

    is_identity = True

    @override
    def require_usable(self) -> None:
        if self.module.training:
            raise CertificateError(f"{self.name}: dropout is active; call model.eval() first")

    @override
    def deploy(self, graph: DeployedGraph, edge: Edge) -> Edge:
        return edge


@kind_of(GroupSort)
class SortingBlock(_Nonexpansive):
    """Entries sorted within groups: nonexpansive in every norm, though not entry by entry."""

    contracts_entries = False

    @override
    def deploy(self, graph: DeployedGraph, edge: Edge) -> Edge:
        group = self.module.group
        place = len(edge.shape) + self.module.dim
        before, own, behind = (
            math.prod(part) for part in (edge.shape[:place], edge.shape[place : place + 1], edge.shape[place + 1 :])
        )
        split = [0, before, group, own // group * behind]
        function = "GroupSort" if group == 2 else "SortedGroups"
        return graph.call(function, edge, shape=edge.shape, split=split, back=[0, *edge.shape])


class _Rounded(Block):
    """A block whose entries come out of a few operations each."""

    @override
    def relative_rounding(self, value: Tensor, image: Tensor) -> Own:
        return few_roundings(value, image)


def few_roundings(value: Tensor, image: Tensor) -> Own:
    """Rounding of a map each of whose entries comes out of a few operations."""
    eps = torch.finfo(value.dtype).eps
    return Own(4.0 * eps * euclidean(image).double(), 0.0, 4.0 * eps)


@kind_of(nn.Tanh, nn.Sigmoid)
class SmoothBlock(_Rounded):
    """Torch's own smooth functions of entries."""

    elementwise = contracts_entries = nonexpansive = True

    @override
    def constant(self, norm: Norm) -> tuple[float, str]:
        return 1.0, "nonexpansive"

    @override
    def interval(self, lower: Tensor, upper: Tensor) -> Interval:
        sigma = of_module(self.module)
        return super().interval(lower, upper) if sigma is None else sigma.interval(lower, upper)

    @override
    def deploy(self, graph: DeployedGraph, edge: Edge) -> Edge:
        return activated(self, of_module(self.module), graph, edge)


@kind_of(Elementwise)
class ActivationBlock(Block):
    """A known activation of every entry."""

    elementwise = True

    @property
    @override
    def contracts_entries(self) -> bool:  # type: ignore[override]
        return self.module.lipschitz() <= 1.0

    @override
    def constant(self, norm: Norm) -> tuple[float, str]:
        return self.module.lipschitz(), "largest slope"

    @override
    def interval(self, lower: Tensor, upper: Tensor) -> Interval:
        return self.module.activation.interval(lower, upper)

    @override
    def relative_rounding(self, value: Tensor, image: Tensor) -> Own:
        # Values of an activation may be differences of larger numbers.
        eps, size = torch.finfo(value.dtype).eps, euclidean(value).double()
        constant = 8.0 * eps * value[0].numel() ** 0.5 if len(value) else 0.0
        return few_roundings(value, image).plus(Own(constant + 8.0 * eps * size, 8.0 * eps))

    @override
    def deploy(self, graph: DeployedGraph, edge: Edge) -> Edge:
        return activated(self, self.module.activation, graph, edge)


def activated(block: Block, sigma: Activation | None, graph: DeployedGraph, edge: Edge) -> Edge:
    """An activation of every entry, appended to a deployed network.

    Args:
        block: which it belongs to, for the error.
        sigma: the activation; None for one that is not known.
        graph: which is written.
        edge: the arguments.
    """
    name = None if sigma is None else name_of(sigma)
    if name is None:
        raise block.unknown(f"no form in deployed files for the activation {sigma!r}")
    return graph.call(f"Activation_{name}", edge, shape=edge.shape)


def reshaped(block: Block, graph: DeployedGraph, edge: Edge) -> Edge:
    """The entries of every sample in the shape of a block's value, appended to a deployed network.

    Args:
        block: which puts them into that shape.
        graph: which is written.
        edge: the block's input.
    """
    shape = block.output_shape(edge.shape, torch.float32)
    return edge if shape == edge.shape else graph.call("Reshaped", edge, shape=shape, to=[0, *shape])

"""Pooling of images over windows."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from wellposed.errors import CertificateError
from wellposed.layers.orthogonal_conv import UnitPool2d
from wellposed.network.deployed import DeployedGraph, Edge, patches
from wellposed.network.kinds.block import Block, Interval, Shape, kind_of
from wellposed.network.kinds.elementwise import few_roundings
from wellposed.network.propagation import Own
from wellposed.numerics.euclidean import euclidean
from wellposed.numerics.norm import Norm
from wellposed.numerics.outward import TINY, next_up, rounding_constant


class _Windows(Block):
    """A pooling of torch's over windows of images."""

    @override
    def require_usable(self) -> None:
        for name, least in (("kernel_size", 1), ("stride", 1), ("padding", 0), ("dilation", 1)):
            size = getattr(self.module, name, 1)
            sides = (size,) if isinstance(size, int) else size
            whole = isinstance(sides, tuple | list) and len(sides) in (1, 2)
            if not whole or not all(isinstance(side, int) for side in sides) or min(sides) < least:
                raise CertificateError(f"{self.name}.{name}={size!r}: must be one or two integers of at least {least}")
        if getattr(self.module, "return_indices", False):
            raise CertificateError(f"{self.name}: maximum pooling is certified without dilation and indices only")


@kind_of(nn.AvgPool2d)
class AveragePoolingBlock(_Windows):
    """Averages over windows; certified are disjoint windows without padding."""

    increasing = True

    @property
    def window(self) -> tuple[int, int] | None:
        """Rows and columns of disjoint windows; None for any other pooling."""
        module = self.module
        kernel, stride, padding = (pair(part) for part in (module.kernel_size, module.stride, module.padding))
        if kernel != stride or padding != (0, 0) or module.ceil_mode or module.divisor_override is not None:
            return None
        return kernel

    @override
    def pull_back(self, rows: Tensor, shape: Shape) -> Tensor | None:
        window = self.window
        if window is None or window[0] != window[1] or len(shape) != 3:
            return None
        size, (channels, height, width) = window[0], shape
        shaped = rows.reshape(len(rows), channels, height // size, width // size) / size**2
        image = shaped.repeat_interleave(size, 2).repeat_interleave(size, 3)
        return nn.functional.pad(image, (0, width - image.shape[3], 0, height - image.shape[2])).flatten(1)

    @override
    def constant(self, norm: Norm) -> tuple[float, str]:
        window = self.window
        if window is None:
            raise CertificateError(
                f"{self.name}: average pooling is certified for disjoint windows without padding only"
            )
        size = window[0] * window[1]
        if norm == "2":
            return next_up(size**-0.5), "average over disjoint windows: one over the root of their size"
        return (1.0 if norm == "inf" else next_up(1.0 / size)), "average over disjoint windows"

    @override
    def interval(self, lower: Tensor, upper: Tensor) -> Interval:
        if self.module.divisor_override is not None:
            return super().interval(lower, upper)
        return _averaged(self.module, math.prod(pair(self.module.kernel_size)), lower, upper)

    @override
    def relative_rounding(self, value: Tensor, image: Tensor) -> Own:
        # An average sums as many terms as a window has.
        inside = (math.prod(pair(self.module.kernel_size)) + 2.0) * torch.finfo(value.dtype).eps
        return few_roundings(value, image).plus(Own(inside * euclidean(value).double(), inside))

    @override
    def deploy(self, graph: DeployedGraph, edge: Edge) -> Edge:
        window = self.window
        if window is None or len(edge.shape) != 3:
            raise self.unknown("no form in deployed files but for disjoint windows of images")
        return averaged(graph, edge, window)


@kind_of(nn.MaxPool2d)
class MaximumPoolingBlock(_Windows):
    """Maxima over windows: each of them moves by at most the largest change inside."""

    @override
    def constant(self, norm: Norm) -> tuple[float, str]:
        module = self.module
        kernel, stride, dilation = (pair(part) for part in (module.kernel_size, module.stride, module.dilation))
        if dilation != (1, 1) or module.return_indices:
            raise CertificateError(f"{self.name}: maximum pooling is certified without dilation and indices only")
        shared = math.prod(-(-taps // step) for taps, step in zip(kernel, stride, strict=True))
        if norm == "inf":
            return 1.0, "maxima move by no more than their arguments"
        return (next_up(shared**0.5) if norm == "2" else float(shared)), "root of how many windows share a value"

    @override
    def interval(self, lower: Tensor, upper: Tensor) -> Interval:
        return self.module(lower), self.module(upper)

    @override
    def relative_rounding(self, value: Tensor, image: Tensor) -> Own:
        return few_roundings(value, image)

    @override
    def deploy(self, graph: DeployedGraph, edge: Edge) -> Edge:
        module = self.module
        kernel, stride, padding = (pair(part) for part in (module.kernel_size, module.stride, module.padding))
        if padding != (0, 0) or module.ceil_mode or len(edge.shape) != 3:
            raise self.unknown("no form in deployed files but for images without padding")
        index, (rows, columns) = patches(edge.shape[1:], kernel, stride=stride)
        shape = (edge.shape[0], rows, columns)
        factor = self.constant("2")[0]
        return graph.call("MaximumPooling", edge, shape=shape, index=index, back=[0, *shape], overlap=factor)


@kind_of(UnitPool2d)
class UnitPoolingBlock(Block):
    """Sums over disjoint windows that are divided by the root of their size: a map with orthonormal rows."""

    @override
    def constant(self, norm: Norm) -> tuple[float, str]:
        return (1.0, "orthonormal rows") if norm == "2" else super().constant(norm)

    @override
    def interval(self, lower: Tensor, upper: Tensor) -> Interval:
        return _averaged(self.module, self.module.window**2, lower, upper)

    @override
    def relative_rounding(self, value: Tensor, image: Tensor) -> Own:
        inside = (self.module.window**2 + 4.0) * torch.finfo(value.dtype).eps
        return few_roundings(value, image).plus(Own(inside * euclidean(value).double(), inside))

    @override
    def deploy(self, graph: DeployedGraph, edge: Edge) -> Edge:
        size = self.module.window
        means = averaged(graph, edge, (size, size))
        scale = torch.full((1,), float(size), device="cpu")
        return graph.call("Affine", means, shape=means.shape, scale=scale, shift=0.0 * scale)


def averaged(graph: DeployedGraph, edge: Edge, window: tuple[int, int]) -> Edge:
    """Averages over disjoint windows, appended to a deployed network.

    Args:
        graph: which is written.
        edge: images.
        window: rows and columns.
    """
    channels, height, width = edge.shape
    index, (rows, columns) = patches((height, width), window, stride=window)
    shape = (channels, rows, columns)
    return graph.call("AveragePooling", edge, shape=shape, index=index, back=[0, *shape])


def _averaged(pool: Any, window: int, lower: Tensor, upper: Tensor) -> Interval:
    """Bounds of sums over windows of so many entries, times a positive constant."""
    rounding = rounding_constant(2 * window + 8)
    return pool(lower) - rounding * pool(lower.abs()) - TINY, pool(upper) + rounding * pool(upper.abs()) + TINY


def pair(size: Any) -> tuple[int, int]:
    """What torch takes for a size of two dimensions."""
    parts = (size,) if isinstance(size, int) else tuple(size)
    return int(parts[0]), int(parts[-1])

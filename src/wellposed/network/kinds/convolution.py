"""Convolutions."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from wellposed.errors import CertificateError
from wellposed.layers.orthogonal_conv import OrthogonalConv2d
from wellposed.maps.checks import plain_convolution
from wellposed.maps.convolution import Convolution
from wellposed.network.deployed import DeployedGraph, Edge, patches, unshuffling
from wellposed.network.kinds.block import Block, Interval, Shape, kind_of
from wellposed.network.kinds.circular import checkable_excess, on_grid, turns
from wellposed.network.kinds.elementwise import few_roundings
from wellposed.network.kinds.linear import require_weight
from wellposed.network.propagation import Own
from wellposed.numerics.euclidean import euclidean
from wellposed.numerics.norm import Norm
from wellposed.numerics.outward import enlarged, next_up
from wellposed.numerics.verified import to_float64
from wellposed.operators.fourier import image_rounding


@kind_of(nn.Conv2d)
class ConvolutionBlock(Block):
    """A convolution with zero padding and one group, for images of any size."""

    @override
    def require_usable(self) -> None:
        module = self.module
        require_weight(self, 4)
        if not plain_convolution(module) and (module.groups != 1 or module.padding_mode != "zeros"):
            raise CertificateError(f"{self.name}: convolutions are certified with zero padding and one group only")
        steps = module.stride if isinstance(module.stride, tuple) else (module.stride,)
        if not all(isinstance(step, int) and step >= 1 for step in steps):
            raise CertificateError(f"{self.name}.stride={module.stride!r}: must be positive integers")
        weight = tuple(module.weight.shape)
        if weight[1] != module.in_channels or weight[2:] != tuple(module.kernel_size):
            raise CertificateError(f"{self.name}: its weight has another shape than its options say")

    @override
    def constant(self, norm: Norm) -> tuple[float, str]:
        """√(‖S‖₁‖S‖_∞), S the sums of absolute values over taps: an upper bound for every stride, zero padding and image size."""
        module = self.module
        if module.groups != 1 or module.padding_mode != "zeros":
            raise CertificateError(f"{self.name}: convolutions are certified with zero padding and one group only")
        taps = module.weight.detach().flatten(2)
        sums = torch.from_numpy(to_float64(taps.flatten(1), self.name)).reshape(taps.shape).abs().sum(2)
        by_input, by_output = sums.sum(0).amax(), sums.sum(1).amax()
        operations = taps.shape[2] + max(sums.shape) + 2  # the sums over taps and channels, their product and its root
        if norm == "2":
            value = enlarged(float((by_input * by_output).sqrt()), operations)
            return value, "geometric mean of the sums over taps, for images of any size"
        value = enlarged(float(by_output if norm == "inf" else by_input), operations)
        return value, "largest sum over taps, for images of any size"

    def _numbers(self, image: Tensor) -> Convolution | None:
        """The stored numbers, for images of a size; None for a dilation, and padding that is named."""
        usual = self.module.dilation == (1, 1) and isinstance(self.module.padding, tuple)
        return Convolution.of(self.module, (image.shape[-2], image.shape[-1])).cpu() if usual else None

    @override
    def interval(self, lower: Tensor, upper: Tensor) -> Interval:
        numbers = self._numbers(lower)
        return super().interval(lower, upper) if numbers is None else numbers.interval(lower, upper)

    @override
    def interval_of_balls(self, centre: Tensor, radius: Tensor) -> Interval | None:
        numbers = self._numbers(centre)
        return None if numbers is None else numbers.interval_of_balls(centre, radius)

    @override
    def relative_rounding(self, value: Tensor, image: Tensor) -> Own:
        module, constant = self.module, 0.0
        unit = 0.5 * torch.finfo(value.dtype).eps * (module.weight[0].numel() + 2) * 1.01
        if module.bias is not None:
            constant = unit * float(module.bias.double().norm()) * math.prod(image.shape[-2:]) ** 0.5
        inside = unit * self.constant("2")[0]
        return few_roundings(value, image).plus(Own(constant + inside * euclidean(value).double(), inside))

    @property
    @override
    def channels(self) -> int | None:
        return self.module.in_channels

    @override
    def deploy(self, graph: DeployedGraph, edge: Edge) -> Edge:
        module = self.module
        if not isinstance(module.padding, tuple) or len(edge.shape) != 3:
            raise self.unknown("no form in deployed files for padding by name, or for rows of images")
        return convolution(graph, edge, module.weight, module.bias, module.stride, module.padding, module.dilation)


def convolution(
    graph: DeployedGraph,
    edge: Edge,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int] = (1, 1),
) -> Edge:
    """A convolution with zero padding, appended to a deployed network.

    Args:
        graph: which is written.
        edge: images.
        weight: shape (out, in, rows, columns).
        bias: shape (out,); None for zero.
        stride: of rows and columns.
        padding: of rows and columns.
        dilation: of rows and columns.
    """
    _, height, width = edge.shape
    steps = {"stride": stride, "padding": padding, "dilation": dilation}
    index, (rows, columns) = patches((height, width), (weight.shape[2], weight.shape[3]), **steps)
    shift = weight.new_zeros(len(weight)) if bias is None else bias.detach()
    shape = (len(weight), rows, columns)
    numbers = {"weight": weight, "bias": shift.reshape(-1, 1, 1), "index": index}
    return graph.call("Convolution", edge, shape=shape, **numbers, back=[0, *shape])


def same_size(kernel: Tensor, shape: tuple[int, ...]) -> dict[str, Any]:
    """The numbers of a deployed state map that is a zero-padded convolution which keeps the size of images.

    Args:
        kernel: shape (channels, channels, rows, columns), rows and columns odd.
        shape: channels, height and width.
    """
    rows, columns = kernel.shape[2:]
    index, _ = patches((shape[1], shape[2]), (rows, columns), padding=(rows // 2, columns // 2))
    return {"kernel": kernel, "index": index, "back": [0, *shape]}


@kind_of(OrthogonalConv2d)
class OrthogonalConvolutionBlock(Block):
    """A circular convolution that is orthogonal at every frequency."""

    @override
    def constant(self, norm: Norm) -> tuple[float, str]:
        if norm != "2":
            return super().constant(norm)
        return next_up(1.0 + self.module.norm_excess()), "largest singular value at any frequency"

    @override
    def relative_rounding(self, value: Tensor, image: Tensor) -> Own:
        module, eps = self.module, torch.finfo(value.dtype).eps
        outputs, inputs = module.free.shape[:2]
        # A product with n columns errs by (n + 4)·eps of that with the matrix of absolute values, whose norm the square root
        # bounds where that of the matrix is one.
        product = max(4.0 * inputs, (inputs + 4.0) * math.sqrt(min(outputs, inputs)))
        terms = 2.0 * image_rounding(module.out_image) + product + 16.0
        bias = 0.0 if module.bias is None else float(module.bias.double().norm())
        constant, inside = eps * terms * bias * math.prod(module.out_image) ** 0.5, eps * terms
        return few_roundings(value, image).plus(Own(constant + inside * euclidean(value).double(), inside))

    @property
    @override
    def input_shape(self) -> Shape | None:
        return (self.module.in_channels, *self.module.image)

    @override
    def deploy(self, graph: DeployedGraph, edge: Edge) -> Edge:
        module: OrthogonalConv2d = self.module
        if edge.shape != self.input_shape:
            raise self.unknown("no form in deployed files for rows of images")
        if module.stride > 1:
            shape = (module.free.shape[1], *module.out_image)
            index = unshuffling(module.image, module.stride)
            edge = graph.call("Placed", edge, shape=shape, index=index, back=[0, *shape])
        bias = torch.zeros(module.out_channels, device="cpu") if module.bias is None else module.bias.detach()
        excess = checkable_excess(module.norm_excess(), module.out_channels)
        return graph.call(
            "Circular", edge, shape=(module.out_channels, *module.out_image), transfer=on_grid(module),
            bias=bias[:, None, None], norm=next_up(1.0 + excess), **turns(module.out_image),
        )  # fmt: skip

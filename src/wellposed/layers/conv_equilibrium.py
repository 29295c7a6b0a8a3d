"""What convolutional equilibrium layers share: images for states, and a zero-padded, strided input convolution."""

from __future__ import annotations

import math
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from wellposed.activations import Activation, Bordered
from wellposed.activations import activation as activation_named
from wellposed.constraints.base import Constraint
from wellposed.errors import CertificateError, InputError, check
from wellposed.layers.equilibrium import Equilibrium
from wellposed.layers.options import SolveOptions
from wellposed.numerics.convolution_norms import convolution_norm
from wellposed.numerics.euclidean import euclidean, product_underflow
from wellposed.numerics.outward import rounding_constant
from wellposed.solvers.a_posteriori import ExactOffset


class ImageInjection(nn.Conv2d):
    """A zero-padded, strided convolution whose image is put into the state: inside its border, before other tiers.

    Args:
        in_channels: channels of the input.
        tiers: channels, height and width of the images of the state; the first one receives the convolution.
        taps: rows and columns, odd.
        stride: of the convolution.
        border: pixels of the state above and to the left of what the convolution gives.
        bias: whether there is a bias, one for every channel of every tier.
        where: device and dtype.
    """

    def __init__(
        self,
        in_channels: int,
        tiers: tuple[tuple[int, int, int], ...],
        *,
        taps: int,
        stride: int,
        border: int,
        bias: bool,
        **where: Any,
    ) -> None:
        super().__init__(in_channels, tiers[0][0], taps, stride=stride, padding=taps // 2, bias=bias, **where)
        self.tiers, self.border = tiers, border
        others = tiers[1:] if bias else ()
        self.others = nn.ParameterList([torch.zeros(channels, **where) for channels, _, _ in others])

    def placed(self, image: Tensor) -> Tensor:
        """The convolution's image as an offset of the state."""
        _, height, width = self.tiers[0]
        below, right = height - image.shape[-2] - self.border, width - image.shape[-1] - self.border
        if self.border or below or right:
            image = nn.functional.pad(image, (self.border, right, self.border, below))
        if len(self.tiers) == 1:
            return image
        rest = [
            (image.new_zeros(channels) if not self.others else self.others[index].to(image))[:, None]
            .expand(channels, height * width)
            .flatten()
            for index, (channels, height, width) in enumerate(self.tiers[1:])
        ]
        driven = torch.cat(rest)
        return torch.cat([image.flatten(1), driven.expand(len(image), len(driven))], 1)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, in_channels, height, width) to an offset of the state."""
        return self.placed(super().forward(x))


class ImageLayer(Equilibrium):
    """An equilibrium layer on images; its input map has ``in_channels``."""

    _image: tuple[int, int]
    _state_shape: tuple[int, ...]

    def _check_sizes(self) -> None:
        pass  # both parts were made for each other

    def _check_shapes(self) -> None:
        count = math.prod(self.state_shape)
        if count != self.constraint.state_features:
            raise CertificateError(
                f"constraint: has {self.constraint.state_features} state features; the layer's states have "
                f"shape {self.state_shape}"
            )
        image = getattr(self.constraint, "image", self.state_shape[1:])
        if tuple(image) != tuple(self.state_shape[1:]):
            raise CertificateError(f"constraint.image={image}: the layer's states have shape {self.state_shape}")
        if isinstance(self.activation, Bordered) and math.prod(self.state_shape) != sum(
            map(math.prod, self.activation.tiers)
        ):
            raise CertificateError(
                f"activation={self.activation!r}: has another border than states of shape {self.state_shape}"
            )

    @property
    def input_shape(self) -> tuple[int, ...]:  # noqa: D102
        return (self.injection.in_channels, *self._image)

    @property
    def in_features(self) -> int:  # noqa: D102
        return self.injection.in_channels * self._image[0] * self._image[1]

    @property
    def state_shape(self) -> tuple[int, ...]:  # noqa: D102
        return self._state_shape

    @property
    def value_shape(self) -> tuple[int, ...]:
        """Shape of one value of the layer."""
        return self.state_shape

    def _check_shape(self, x: Tensor) -> None:
        if x.ndim < 3 or tuple(x.shape[-3:]) != self.input_shape:
            raise InputError(f"x: has shape {tuple(x.shape)}, but the layer takes images of shape {self.input_shape}")


class ConvEquilibrium(ImageLayer):
    """``z* = σ(W z* + U x + b)`` on images, U a zero-padded, strided convolution.

    Args:
        in_channels: channels of the input.
        image: height and width of the input.
        constraint: free parameters of W.
        tiers: channels, height and width of the images that are the state; the first one receives the input.
        taps: rows and columns of the input convolution, odd.
        stride: of the input convolution.
        border: 0 or 1: width of a border of the state that is kept zero, see `wellposed.activations.Bordered`.
        activation: a name or an `Activation`.
        bias: whether the input convolution has a bias.
        device: where the weights are created.
        dtype: their dtype.
        options: see `SolveOptions`.
    """

    injections = (ImageInjection,)

    def __init__(
        self,
        in_channels: int,
        image: tuple[int, int],
        constraint: Constraint,
        tiers: tuple[tuple[int, int, int], ...],
        *,
        taps: int,
        stride: int,
        border: int = 0,
        activation: str | Activation,
        bias: bool,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
        **options: Unpack[SolveOptions],
    ) -> None:
        check(in_channels > 0, "in_channels", in_channels, "must be a positive integer")
        check(border in (0, 1), "border", border, "must be 0 or 1")
        self._image = (int(image[0]), int(image[1]))
        injection = ImageInjection(
            in_channels, tiers, taps=taps, stride=stride, border=border, bias=bias, device=device, dtype=dtype
        )
        sigma = activation_named(activation)
        super().__init__(injection, constraint, activation=Bordered(sigma, tiers) if border else sigma, **options)
        self._state_shape = tiers[0] if len(tiers) == 1 else (constraint.state_features,)

    def _check_shapes(self) -> None:
        super()._check_shapes()
        convolution, (channels, height, width) = self.injection, self.injection.tiers[0]
        require_centred("injection", convolution)
        border = isinstance(self.activation, Bordered)
        image = state_image(self._image, convolution.stride[0])
        fits = (channels, height, width) == (convolution.weight.shape[0], image[0] + 2 * border, image[1] + 2 * border)
        total = sum(map(math.prod, convolution.tiers))
        if not fits or convolution.border != int(border) or total != self.constraint.state_features:
            raise CertificateError(
                f"injection.tiers={convolution.tiers}: do not fit images of {self._image} pixels and the state map"
            )
        if isinstance(self.activation, Bordered) and self.activation.tiers != convolution.tiers:
            raise CertificateError(
                f"activation={self.activation!r}: has other images than the input map, {convolution.tiers}"
            )

    def injection_norm(self) -> float:  # noqa: D102
        return convolution_norm(self.injection.weight, self._image, self.injection.stride[0])

    def _exact_offset(self, rows: Tensor) -> ExactOffset:
        convolution = self.injection
        bias = None if convolution.bias is None else convolution.bias.detach().double()
        found = exact_convolution(rows, convolution.weight.detach().double(), bias, convolution)
        return ExactOffset(convolution.placed(found.value).detach(), found.error)


def require_centred(name: str, convolution: nn.Conv2d) -> None:
    """Refuse a convolution with other options than the layers on images make theirs with.

    Args:
        name: of the part, for the error.
        convolution: the input map.

    Raises:
        CertificateError: dilation, groups, another padding mode, unequal strides, or padding other than half of the taps.
    """
    taps = tuple(convolution.weight.shape[2:])
    usual = (
        convolution.stride[0] == convolution.stride[1]
        and convolution.padding == (taps[0] // 2, taps[1] // 2)
        and plain_convolution(convolution)
    )
    if not usual:
        raise CertificateError(f"{name}: {convolution} has other options than this layer's theorem is about")


def plain_convolution(convolution: nn.Conv2d) -> bool:
    """Whether a convolution has zero padding, one group and no dilation, and weights of the shapes that it says."""
    weight, bias = convolution.weight, convolution.bias
    shapes = (
        weight.ndim == 4
        and weight.shape[1] == convolution.in_channels
        and (bias is None or bias.shape == weight.shape[:1])
    )
    return shapes and convolution.dilation == (1, 1) and convolution.groups == 1 and convolution.padding_mode == "zeros"


def exact_convolution(
    rows: Tensor, weight: Tensor, bias: Tensor | None, convolution: nn.Conv2d, *, roundings: int = 0
) -> ExactOffset:
    """A convolution in float64, with a bound on the Euclidean error of each sample.

    Args:
        rows: images, shape (batch, in_channels, height, width), any float dtype.
        weight: float64, shape (out_channels, in_channels, rows, columns).
        bias: float64, shape (out_channels,), or None.
        convolution: has the stride and the padding.
        roundings: how many roundings of float64 the weights and biases themselves may be off.
    """
    exact = rows.detach().double()

    def apply(image: Tensor, kernel: Tensor, shift: Tensor | None) -> Tensor:
        return nn.functional.conv2d(image, kernel, shift, convolution.stride, convolution.padding)

    size = euclidean(apply(exact.abs(), weight.abs(), None if bias is None else bias.abs()))
    value, terms = apply(exact, weight, bias), weight[0].numel()
    lost = product_underflow(
        rows.dtype, value[0].numel(), terms, exact[0].numel(), float(weight.abs().sum()), euclidean(exact)
    )
    return ExactOffset(value, 2.0 * rounding_constant(terms + 4 + roundings) * size + lost)


def input_side(taps: int, input_taps: int | None) -> int:
    """Rows and columns of the input convolution: ``input_taps``, or where that is None those of all kernels.

    Raises:
        InputError: not odd.
    """
    side = taps if input_taps is None else input_taps
    check(side >= 1 and side % 2 == 1, "input_taps", side, "must be odd")
    return side


def state_image(image: tuple[int, int], stride: int) -> tuple[int, int]:
    """Height and width of the state: those of the input divided by the stride, rounded up."""
    check(len(image) == 2 and min(image) >= 1, "image", image, "must be a positive height and width")
    check(stride >= 1, "stride", stride, "must be at least 1")
    return -(-int(image[0]) // stride), -(-int(image[1]) // stride)

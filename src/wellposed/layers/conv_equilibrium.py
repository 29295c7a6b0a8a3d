"""What convolutional equilibrium layers share: images for states, and a zero-padded, strided input convolution."""

from __future__ import annotations

from typing import Any, Unpack

import torch
from typing_extensions import override

from wellposed.activations import Activation, Bordered
from wellposed.activations import activation as activation_named
from wellposed.constraints.base import Constraint
from wellposed.errors import CertificateError, check
from wellposed.layers.equilibrium import Equilibrium
from wellposed.layers.options import SolveOptions
from wellposed.maps.image import ImageInjection


class ImageLayer(Equilibrium):
    """An equilibrium layer on images."""

    constraint: Any  # which has the height and width of the images of the state

    @override
    def _check_shapes(self) -> None:
        super()._check_shapes()
        self._check_images()

    def _check_images(self) -> None:
        """Refuse a constraint that is about images of another size."""
        if tuple(self.constraint.image) != self.state_shape[1:]:
            raise CertificateError(
                f"constraint.image={self.constraint.image}: the layer's states have shape {self.state_shape}"
            )

    def _check_border(self, border: int, tiers: tuple[tuple[int, int, int], ...]) -> None:
        """Refuse an activation that keeps another border zero than the one around what the input map gives."""
        inside = self.activation.interior
        if self.activation != (Bordered(inside, tiers) if border else inside):
            raise CertificateError(
                f"activation={self.activation!r}: has another border or other images than the input map, {tiers}"
            )


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

    injection: ImageInjection
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
        injection = ImageInjection(
            in_channels, image, tiers, taps=taps, stride=stride, border=border, bias=bias, device=device, dtype=dtype
        )
        sigma = activation_named(activation)
        super().__init__(injection, constraint, activation=Bordered(sigma, tiers) if border else sigma, **options)

    @override
    def _check_shapes(self) -> None:
        super()._check_shapes()
        self._check_border(self.injection.border, self.injection.tiers)


def input_side(taps: int, input_taps: int | None) -> int:
    """Rows and columns of the input convolution: ``input_taps``, or where that is None those of all kernels.

    Raises:
        InputError: not odd.
    """
    side = taps if input_taps is None else input_taps
    check(side >= 1 and side % 2 == 1, "input_taps", side, "must be odd")
    return side

"""The multi-tier monotone equilibrium layer (Winston & Kolter 2020, section 4)."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.activations import Activation
from wellposed.constraints.multi_scale_monotone import MultiScaleMonotone, tier_images
from wellposed.errors import CertificateError, check, checked_options
from wellposed.layers.conv_equilibrium import ConvEquilibrium, input_side
from wellposed.layers.options import SolveOptions
from wellposed.maps.image import state_image


class MultiScaleMonDEQ(ConvEquilibrium):
    """``z* = σ(W z* + U x + b)`` over images of several sizes, with I − W ⪰ mI; its value is the smallest image.

    The input drives the first tier, and every tier the next one, which has half its height and width. The equilibrium of all
    tiers, flat, is the ``value`` of `solve`; `tiers` takes it apart.

    Args:
        in_channels: channels of the input.
        channels: channels of every tier.
        image: height and width of the input.
        m: strong-monotonicity constant, positive; larger is smoother.
        taps: rows and columns of all kernels, odd.
        input_taps: rows and columns of the input convolution, odd; None for ``taps``.
        stride: of the input convolution.
        border: 1 adds a border to every tier that is kept zero, as in the published networks.
        activation: a name or an `Activation` with slopes in [0, 1].
        bias: whether there is a bias for every channel of every tier.
        device: where the weights are created.
        dtype: their dtype.
        options: see `SolveOptions`; solver None is Peaceman–Rachford with a step read off the weights.

    Example:
        >>> layer = MultiScaleMonDEQ(1, (8, 16), (28, 28), stride=2)
        >>> layer(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 16, 7, 7])
    """

    constraint: MultiScaleMonotone
    constraints = (MultiScaleMonotone,)

    @checked_options
    def __init__(
        self,
        in_channels: int,
        channels: tuple[int, ...],
        image: tuple[int, int],
        *,
        m: float = 1.0,
        taps: int = 3,
        input_taps: int | None = None,
        stride: int = 1,
        border: int = 0,
        activation: str | Activation = "relu",
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[SolveOptions],
    ) -> None:
        check(
            len(channels) >= 2,
            "channels",
            channels,
            "must have an entry for each of two or more tiers; one is a ConvMonDEQ",
        )
        check(taps >= 1 and taps % 2 == 1, "taps", taps, "must be odd")
        check(border >= 0, "border", border, "must not be negative")
        images = tier_images(state_image(image, stride), len(channels), border)
        constraint = MultiScaleMonotone(tuple(channels), images, m, taps=taps, device=device, dtype=dtype)
        tiers = tuple((count, *size) for count, size in zip(channels, images, strict=True))
        super().__init__(
            in_channels, image, constraint, tiers, taps=input_side(taps, input_taps), stride=stride,
            border=border, activation=activation, bias=bias, device=device, dtype=dtype, **options,
        )  # fmt: skip

    @override
    def _check_images(self) -> None:
        parts = zip(self.constraint.tier_channels, self.constraint.images, strict=True)
        tiers = tuple((count, *size) for count, size in parts)
        if tiers != self.injection.tiers:
            raise CertificateError(f"injection.tiers={self.injection.tiers}: the state map has the images {tiers}")

    @property
    @override
    def value_shape(self) -> tuple[int, ...]:
        return self.injection.tiers[-1]

    def tiers(self, state: Tensor) -> list[Tensor]:
        """The images of a flat state of shape (*, state_features), largest first."""
        shapes = self.injection.tiers
        parts = state.split([count * height * width for count, height, width in shapes], -1)
        return [part.unflatten(-1, shape) for part, shape in zip(parts, shapes, strict=True)]

    @override
    def readout(self, state: Tensor, x: Tensor) -> Tensor:
        """The image of the last tier."""
        return self.tiers(state)[-1]

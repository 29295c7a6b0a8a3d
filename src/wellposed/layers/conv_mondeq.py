"""The convolutional monotone equilibrium layer (Winston & Kolter 2020, single convolution)."""

from __future__ import annotations

from typing import Unpack

import torch

from wellposed.activations import Activation
from wellposed.constraints.circular_monotone import CircularMonotone
from wellposed.errors import checked_options
from wellposed.layers.conv_equilibrium import ConvEquilibrium, input_side
from wellposed.layers.options import SolveOptions
from wellposed.maps.image import state_image


class ConvMonDEQ(ConvEquilibrium):
    """``z* = σ(W z* + U x + b)`` on images: W a circular convolution with I − W ⪰ mI, U a zero-padded, strided one.

    Args:
        in_channels: channels of the input.
        channels: channels of the equilibrium.
        image: height and width of the input.
        m: strong-monotonicity constant, positive; larger is smoother.
        taps: rows and columns of all kernels, odd.
        input_taps: rows and columns of the input convolution, odd; None for ``taps``.
        stride: of the input convolution; the equilibrium has ⌈height/stride⌉ × ⌈width/stride⌉ pixels.
        border: 1 adds a border to the equilibrium that is kept zero, so that with 3 × 3 taps W acts on the pixels inside as a
            zero-padded convolution, as in the published networks; with 0 images are cyclic.
        activation: a name or an `Activation` with slopes in [0, 1].
        bias: whether the input convolution has a bias.
        device: where the weights are created.
        dtype: their dtype.
        options: see `SolveOptions`; solver None is Peaceman–Rachford with a step read off the weights.

    Example:
        >>> layer = ConvMonDEQ(1, 8, (28, 28), stride=2)
        >>> layer(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 8, 14, 14])
    """

    constraint: CircularMonotone

    @checked_options
    def __init__(
        self,
        in_channels: int,
        channels: int,
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
        rows, columns = state_image(image, stride)
        state = (rows + 2 * border, columns + 2 * border)
        constraint = CircularMonotone(channels, state, m, taps=taps, device=device, dtype=dtype)
        super().__init__(
            in_channels, image, constraint, ((channels, *state),), taps=input_side(taps, input_taps), stride=stride,
            border=border, activation=activation, bias=bias, device=device, dtype=dtype, **options,
        )  # fmt: skip

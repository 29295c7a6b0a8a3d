"""The convolutional non-Euclidean monotone layer (Jafarpour et al. 2021)."""

from __future__ import annotations

from typing import Unpack

import torch

from wellposed.activations import Activation
from wellposed.constraints.conv_log_norm import ConvLogNorm
from wellposed.errors import checked_options
from wellposed.layers.conv_equilibrium import ConvEquilibrium, input_side
from wellposed.layers.options import SolveOptions
from wellposed.maps.image import state_image


class ConvNEMON(ConvEquilibrium):
    """``z* = σ(W z* + U x + b)`` on images: W a zero-padded convolution with μ_∞,η(W) ≤ μ < 1, by sums over all taps.

    Args:
        in_channels: channels of the input.
        channels: channels of the equilibrium.
        image: height and width of the input.
        mu: bound of the log norm, below one; larger is more expressive and less smooth.
        taps: rows and columns of all kernels, odd.
        input_taps: rows and columns of the input convolution, odd; None for ``taps``.
        stride: of the input convolution; the equilibrium has ⌈height/stride⌉ × ⌈width/stride⌉ pixels.
        activation: a name or an `Activation` with slopes in [0, 1].
        bias: whether the input convolution has a bias.
        device: where the weights are created.
        dtype: their dtype.
        options: see `SolveOptions`; solver None is forward–backward with the step 1/(1 − k) of every channel,
            k its centre tap to itself.

    Example:
        >>> layer = ConvNEMON(1, 8, (28, 28), stride=2)
        >>> layer(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 8, 14, 14])
    """

    constraint: ConvLogNorm

    @checked_options
    def __init__(
        self,
        in_channels: int,
        channels: int,
        image: tuple[int, int],
        *,
        mu: float = 0.0,
        taps: int = 3,
        input_taps: int | None = None,
        stride: int = 1,
        activation: str | Activation = "relu",
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[SolveOptions],
    ) -> None:
        state = state_image(image, stride)
        constraint = ConvLogNorm(channels, state, mu, taps=taps, device=device, dtype=dtype)
        super().__init__(
            in_channels, image, constraint, ((channels, *state),), taps=input_side(taps, input_taps), stride=stride,
            activation=activation, bias=bias, device=device, dtype=dtype, **options,
        )  # fmt: skip

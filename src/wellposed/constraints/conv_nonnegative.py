"""Nonnegative convolutions, for positive concave maps (Gabor, Piotrowski & Cavalcante 2024)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import override

from wellposed.activations.concave import concave_activation, thompson_modulus
from wellposed.constraints.base import ImageConstraint, Projected
from wellposed.constraints.factorisations import factorisation_cache
from wellposed.constraints.nonnegative import ConcaveConstraint, nonnegative
from wellposed.errors import choices
from wellposed.guarantee.positive_convolution import PositiveConvolution
from wellposed.names import NONNEGATIVE
from wellposed.operators.zero_padded import ZeroPadded


class ConvNonnegative(ConcaveConstraint, ImageConstraint, Projected):
    """A free kernel V of shape (channels, channels, taps, taps) and one gain g for every output channel.

    The kernel of W is g'·V'/‖V'‖, V' ≥ 0 and g' ≥ 0 made from V and g, with the Euclidean norm of each output channel's taps.

    Args:
        channels: of the state.
        image: height and width of the state.
        activation: σ, which the theorem is about, by name.
        floor: a lower bound of every entry of the offset.
        parametrisation: how V' and g' are made, see `Nonnegative`; the published networks have ``"projection"``.
        taps: rows and columns of the kernel, odd.
    """

    def __init__(
        self,
        channels: int,
        image: tuple[int, int],
        activation: str,
        floor: float,
        *,
        parametrisation: str = "square",
        taps: int = 3,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.set_image(channels, image, taps)
        choices("parametrisation", parametrisation, NONNEGATIVE)
        self.parametrisation = parametrisation
        self._activation, self._floor = concave_activation(activation), floor
        self._thompson = thompson_modulus(activation, floor)
        self.V = nn.Parameter(torch.empty(channels, channels, taps, taps, device=device, dtype=dtype))
        self.gain = nn.Parameter(torch.empty(channels, device=device, dtype=dtype))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Taps uniform, with row sums of 0.3."""
        nn.init.uniform_(self.V, 0.05, 1.0)
        self.gain.fill_(1.0)
        sums = self.kernel().sum((1, 2, 3)) / nonnegative(self.gain, self.parametrisation)
        self.gain.copy_(0.3 / sums)
        if self.parametrisation == "square":
            self.gain.sqrt_()
        elif self.parametrisation == "softplus":
            self.gain.expm1_().clamp_min_(1e-6).log_()

    def kernel(self) -> Tensor:
        """The kernel of W, nonnegative, with its graph."""
        taps = nonnegative(self.V, self.parametrisation)
        size = torch.linalg.vector_norm(taps.flatten(1), dim=1).clamp_min(torch.finfo(taps.dtype).tiny ** 0.5)
        return taps * (nonnegative(self.gain, self.parametrisation) / size)[:, None, None, None]

    @torch.no_grad()
    def project(self) -> None:
        """Set negative entries of V and g to zero, with the parametrisation ``"projection"``."""
        if self.parametrisation == "projection":
            self.V.clamp_min_(0.0)
            self.gain.clamp_min_(0.0)

    @override
    def materialise(self) -> tuple[ZeroPadded, PositiveConvolution]:
        operator = ZeroPadded(self.kernel(), self.image, factorisation_cache(self))
        return operator, PositiveConvolution(operator, self._activation, self._floor, self._thompson)

    def extra_repr(self) -> str:
        """Shown inside ``repr``."""
        return f"channels={self.channels}, image={self.image}, parametrisation={self.parametrisation!r}, floor={self._floor}"

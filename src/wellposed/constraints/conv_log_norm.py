"""A bound on the weighted ℓ∞ log norm of a convolution (Jafarpour et al. 2021, with the sum over taps that it needs).

``K = [η]T[η]⁻¹`` but for the centre tap of each channel to itself, which is ``μ − Σ |T| − softplus(a)`` with the sum over all
other inputs *and taps*: then μ_∞,η(W) ≤ μ with circular and with zero padding, for every image size. (Published code leaves the
taps out of the sum, and certifies maps whose log norm is several times one.)
"""

from __future__ import annotations

import math
from collections.abc import Hashable

import torch
from torch import Tensor, nn
from typing_extensions import override

from wellposed.constraints.base import ImageConstraint, SavedNumber
from wellposed.constraints.factorisations import factorisation_cache
from wellposed.errors import check
from wellposed.guarantee.channelwise import Channelwise
from wellposed.numerics.linear_algebra import full_precision
from wellposed.operators.zero_padded import ZeroPadded


class ConvLogNorm(SavedNumber, ImageConstraint):
    """Free kernel T of shape (channels, channels, taps, taps), a of shape (channels,) and log η of shape (channels,).

    Args:
        channels: of the state.
        image: height and width of the state.
        mu: the bound, below one; smaller is smoother. Saved with the weights.
        taps: rows and columns of the kernel, odd.
    """

    saved = "mu"

    def __init__(
        self,
        channels: int,
        image: tuple[int, int],
        mu: float = 0.0,
        *,
        taps: int = 3,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.set_image(channels, image, taps)
        check(isinstance(mu, int | float) and -math.inf < mu < 1.0, "mu", mu, "must be finite and below one")
        self.mu = float(mu)
        self.T = nn.Parameter(torch.empty(channels, channels, taps, taps, device=device, dtype=dtype))
        self.slack = nn.Parameter(torch.full((channels,), -4.0, device=device, dtype=dtype))
        self.log_weights = nn.Parameter(torch.zeros(channels, device=device, dtype=dtype))
        nn.init.normal_(self.T, std=0.3 / (self.T.shape[1] * taps * taps) ** 0.5)

    @override
    def materialise(self) -> tuple[ZeroPadded, Channelwise]:
        with full_precision(self.T.device):
            middle = self.T.shape[2] // 2
            own = torch.zeros_like(self.T)
            own[:, :, middle, middle] = torch.eye(self.channels, dtype=own.dtype, device=own.device)
            free = self.T * (1.0 - own)
            centre = self.mu - free.abs().sum((1, 2, 3)) - nn.functional.softplus(self.slack)
            scale = torch.exp(self.log_weights[:, None] - self.log_weights)[:, :, None, None]
            kernel = free * scale + own * centre[:, None, None, None]
        operator = ZeroPadded(kernel, self.image, factorisation_cache(self))
        return operator, Channelwise(operator)

    @override
    def decided_by(self) -> tuple[Hashable, tuple[Tensor, ...]]:
        return (float(self.mu), self.channels, self.image), (self.T, self.slack, self.log_weights)

    def _is_usable(self, value: float) -> bool:
        return -math.inf < value < 1.0

    def extra_repr(self) -> str:
        """Shown inside ``repr``."""
        return f"channels={self.channels}, image={self.image}, mu={self.mu}"

"""The output map of bounded layers on images: averages over windows, then a matrix."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from wellposed.errors import CertificateError, check
from wellposed.maps.affine import Matrix
from wellposed.maps.scaled import Scaled


class PooledLinear(Scaled):
    """``W_o P z + b_o``: averages over disjoint windows, then a matrix that is √γ times its free parameters.

    Args:
        state: channels, height and width of z.
        out_features: outputs.
        pool: rows and columns of the windows; what is left over at the bottom and the right is not used.
        log_gamma: logarithm of γ, shared.
        where: device and dtype.
    """

    def __init__(
        self, state: tuple[int, int, int], out_features: int, pool: int, log_gamma: nn.Parameter, **where: Any
    ) -> None:
        super().__init__()
        windows = (state[1] // pool, state[2] // pool)
        check(min(windows) >= 1, "pool", pool, f"is larger than the state of {state[1:]} pixels")
        self.state, self.pool, self.windows = state, pool, windows
        self.in_features, self.out_features = state[0] * state[1] * state[2], out_features
        free = nn.Linear(state[0] * windows[0] * windows[1], out_features, **where)
        self.free, self.bias = free.weight, free.bias
        self.log_gamma = log_gamma

    @property
    @override
    def input_shape(self) -> tuple[int, ...]:
        return self.state

    @property
    @override
    def output_shape(self) -> tuple[int, ...]:
        return (self.out_features,)

    def spread(self, weight: Tensor) -> Tensor:
        """The whole map W_o P for some W_o, shape (out_features, *state); W_o P is of no larger norm than W_o."""
        image = weight.unflatten(1, (self.state[0], *self.windows)) / self.pool**2
        wide = image.repeat_interleave(self.pool, 2).repeat_interleave(self.pool, 3)
        left = [extent - self.pool * count for extent, count in zip(self.state[1:], self.windows, strict=True)]
        return nn.functional.pad(wide, (0, left[1], 0, left[0]))

    @override
    def numbers(self) -> Matrix:
        """W_o P on flat states; the division of the averages rounds once."""
        return Matrix.of(self.spread(self.weight.detach().double()).flatten(1), self.bias, roundings=1)

    @override
    def check_numbers(self, name: str) -> None:
        windows = (self.state[1] // self.pool, self.state[2] // self.pool)
        fits = self.windows == windows and self.in_features == math.prod(self.state)
        if not fits or self.weight.shape != (self.out_features, self.state[0] * math.prod(windows)):
            raise CertificateError(f"{name}: does not fit states of shape {self.state}")

    def forward(self, state: Tensor) -> Tensor:
        """Shape (*, channels, height, width) to (*, out_features)."""
        means = nn.functional.avg_pool2d(state.reshape(-1, *self.state), self.pool).flatten(1)
        value = nn.functional.linear(means, self.weight, self.bias)
        return value.reshape(*state.shape[:-3], self.out_features)

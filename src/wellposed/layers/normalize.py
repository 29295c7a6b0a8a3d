"""Standardisation as the first layer, so that everything outside the model is in pixel units."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wellposed.errors import CertificateError, InputError, check, checked_options
from wellposed.layers.inputs import check_tensor


class Normalize(nn.Module):
    """``(x − mean) / std`` per channel, for inputs of shape (batch, channels, height, width).

    Args:
        mean: one number per channel.
        std: one positive number per channel.
    """

    mean: Tensor
    std: Tensor

    @checked_options
    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        check(len(mean) == len(std) > 0, "std", std, f"needs one number per channel, as mean={mean!r}")
        check(min(std) > 0.0, "std", std, "must be positive")
        self.register_buffer("mean", torch.tensor(mean).reshape(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """The normalised images, of the shape (batch, channels, height, width) of x."""
        check_tensor(x)
        if x.ndim < 3 or (len(self.mean) > 1 and (x.ndim != 4 or x.shape[1] != len(self.mean))):
            raise InputError(
                f"x: has shape {tuple(x.shape)}, but the normalisation is for images of {len(self.mean)} channels, "
                "shape (batch, channels, height, width)"
            )
        return (x - self.mean) / self.std

    def check_parts(self) -> None:
        """Raise an error if mean or standard deviation were replaced by numbers that this map is not about."""
        shapes = self.mean.ndim == 3 and self.mean.shape == self.std.shape and self.mean[0].numel() == 1
        if not shapes or not bool(torch.isfinite(self.mean).all() and torch.isfinite(self.std).all()):
            raise CertificateError("mean, std: must have one finite number per channel, shape (channels, 1, 1)")
        if not float(self.std.amin()) > 0.0:
            raise CertificateError("std: must be positive")

    @property
    def is_uniform(self) -> bool:
        """Whether all channels have one mean and one standard deviation."""
        return bool((self.mean == self.mean[0]).all() and (self.std == self.std[0]).all())

    def spread(self, inputs: int) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of every entry of a flattened input, float64 on the CPU, each of shape (inputs,).

        Args:
            inputs: size of the flattened input.
        """
        parts = [part.detach().double().cpu().reshape(-1) for part in (self.mean, self.std)]
        mean, std = (part.repeat_interleave(inputs // len(part)) for part in parts)
        return mean, std

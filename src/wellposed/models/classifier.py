"""Whole models of images and vectors: from stored numbers to outputs."""

from __future__ import annotations

from torch import nn

from wellposed.layers import Normalize


def classifier(
    body: tuple[nn.Module, ...], mean: tuple[float, ...], std: tuple[float, ...], shape: tuple[int, ...] | None = None
) -> nn.Sequential:
    """Normalise, flatten, then the body.

    Inputs are pixels in [0, 1] of shape (batch, channels, height, width): normalisation is part of the model, so that
    every certified radius is in pixel units. The entries of vectors, shape (batch, features), are normalised as channels are.

    Args:
        body: blocks that map flattened inputs to outputs.
        mean: per-channel mean.
        std: per-channel standard deviation.
        shape: of one input; None for that of an image.
    """
    as_channels = (nn.Unflatten(1, (*shape, 1, 1)),) if shape is not None and len(shape) == 1 else ()
    return nn.Sequential(*as_channels, Normalize(mean, std), nn.Flatten(), *body)

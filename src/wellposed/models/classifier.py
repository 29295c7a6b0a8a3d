"""Dense classifiers of images: pixels in, logits out."""

from __future__ import annotations

from torch import nn

from wellposed.layers import Normalize


def classifier(body: tuple[nn.Module, ...], mean: tuple[float, ...], std: tuple[float, ...]) -> nn.Sequential:
    """Normalise, flatten, then the body.

    Inputs are pixels in [0, 1] of shape (batch, channels, height, width): normalisation is part of the model, so that
    every certified radius is in pixel units.

    Args:
        body: blocks that map flattened inputs to logits.
        mean: per-channel mean.
        std: per-channel standard deviation.
    """
    return nn.Sequential(Normalize(mean, std), nn.Flatten(), *body)

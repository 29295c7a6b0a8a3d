"""The dense classifier of the monotone DEQ papers: pixels, one equilibrium layer, one linear layer."""

from __future__ import annotations

from torch import nn

from wellposed.layers import Normalize


def classifier(
    layer: nn.Module, state_features: int, mean: tuple[float, ...], std: tuple[float, ...], classes: int
) -> nn.Sequential:
    """Normalise, flatten, ``layer``, linear.

    Inputs are pixels in [0, 1] of shape (batch, channels, height, width): normalisation is part of the model, so that
    every certified radius is in pixel units.

    Args:
        layer: maps flattened inputs to ``state_features``.
        state_features: size of the layer's output.
        mean: per-channel mean.
        std: per-channel standard deviation.
        classes: number of logits.
    """
    head = nn.Linear(state_features, classes)
    return nn.Sequential(Normalize(mean, std), nn.Flatten(), layer, head)

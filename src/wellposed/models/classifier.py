"""Whole models of images and vectors: from stored numbers to outputs."""

from __future__ import annotations

from torch import nn

from wellposed.data.base import TensorData
from wellposed.errors import check_class, checked_options
from wellposed.layers import Normalize


@checked_options
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
    return nn.Sequential(*_normalisation(mean, std, shape), nn.Flatten(), *body)


def normalised(model: nn.Module, data: TensorData) -> nn.Sequential:
    """A model with the normalisation of a data set in front, so that radii and constants are in the units of the data.

    Args:
        model: takes normalised inputs of the shape of the data.
        data: has one mean and one standard deviation for every channel of an image or every entry of a vector.
    """
    check_class("model", model, nn.Module, "must be a torch.nn.Module")
    check_class("data", data, TensorData, "must be a data set, as of wellposed.data.load_file or from_arrays")
    flat = (nn.Flatten(),) if len(data.shape) == 1 else ()
    return nn.Sequential(*_normalisation(data.mean, data.std, data.shape), *flat, model)


def _normalisation(
    mean: tuple[float, ...], std: tuple[float, ...], shape: tuple[int, ...] | None
) -> tuple[nn.Module, ...]:
    """Normalisation of images by channel; of vectors, as images of one pixel."""
    as_channels = (nn.Unflatten(1, (*shape, 1, 1)),) if shape is not None and len(shape) == 1 else ()
    return (*as_channels, Normalize(mean, std))

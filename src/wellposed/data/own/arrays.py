"""Arrays of samples as they were given, checked and in the form that networks take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wellposed.errors import DataError

_CHANNELS = (1, 2, 3, 4)  # how many an image may have for its channels to be told from its height and width


@dataclass(frozen=True)
class Samples:
    """Inputs and targets of one part, with what errors call them.

    Attributes:
        x: inputs, shape (samples, ...).
        y: targets, shape (samples,) or (samples, outputs).
        x_name: what errors call the inputs: file and array.
        y_name: what errors call the targets.
        columns: names of the columns of a table; empty for other inputs.
        more: how a test part that is missing, or too few samples, are mended, in words.
    """

    x: NDArray[Any]
    y: NDArray[Any]
    x_name: str
    y_name: str
    columns: tuple[str, ...] = ()
    more: str = "add samples, or give x_test and y_test"


def as_array(name: str, values: Any) -> NDArray[Any]:
    """Numbers or names as a numpy array.

    Args:
        name: what errors call them.
        values: array, tensor or nested sequence.

    Raises:
        DataError: they are no numbers of one shape.
    """
    try:
        found = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    except (ValueError, TypeError) as error:
        raise DataError(f"{name}: is no array of one shape ({error})") from error
    if found.dtype.kind not in "biuf":
        raise DataError(f"{name}: has the dtype {found.dtype}; needs numbers")
    if found.ndim == 0 or not len(found):
        raise DataError(f"{name}: has shape {found.shape}; needs at least one sample along its first axis")
    return found


def inputs_tensor(name: str, x: NDArray[Any]) -> Tensor:
    """Inputs as networks take them: float32, tables of shape (samples, features), images (samples, channels, height, width).

    Args:
        name: what errors call them.
        x: shape (samples, features), (samples, height, width), (samples, channels, height, width) or with the channels last.

    Raises:
        DataError: another shape; NaN, infinite or too large numbers; pixels outside [0, 1], or uint8 that look like masks.
    """
    if x.ndim not in (2, 3, 4) or 0 in x.shape:
        raise DataError(
            f"{name}: has shape {x.shape}; needs (samples, features) for tables, (samples, height, width), (samples, channels, "
            "height, width) or (samples, height, width, channels) for images"
        )
    with np.errstate(over="ignore"):
        numbers = np.ascontiguousarray(x.astype(np.float32))
    if not np.isfinite(numbers).all():
        row = int(np.argwhere(~np.isfinite(numbers))[0][0])
        raise DataError(
            f"{name}: has NaN or infinite numbers, or some too large for float32, first in sample {row}, counted from 0"
        )
    if x.ndim == 2:
        return torch.from_numpy(numbers)
    if x.dtype == np.uint8:
        if numbers.max() == 1.0:
            raise DataError(
                f"{name}: has no pixels but 0 and 1 of 255; multiply masks by 255, or give them as floats, where 1 is white"
            )
        numbers = numbers / np.float32(255.0)
    elif x.dtype.kind != "f":
        raise DataError(f"{name}: has the dtype {x.dtype}; images need uint8, or floats in [0, 1]")
    if numbers.min() < 0.0 or numbers.max() > 1.0:
        raise DataError(
            f"{name}: spans [{numbers.min():.4g}, {numbers.max():.4g}]; images need floats in [0, 1], or uint8: divide by the "
            "largest value that a pixel can have"
        )
    images = torch.from_numpy(numbers)
    return images[:, None] if x.ndim == 3 else images.permute(0, 3, 1, 2).contiguous() if _last(x.shape) else images


def _last(shape: Sequence[int]) -> bool:
    """Whether the last axis of images has the channels."""
    return shape[3] in _CHANNELS and shape[1] not in _CHANNELS


def classes_tensor(name: str, y: NDArray[Any]) -> Tensor:
    """Classes, int64, shape (samples,).

    Args:
        name: what errors call them.
        y: whole numbers, shape (samples,) or (samples, 1).

    Raises:
        DataError: they are no whole numbers, negative, or of another shape.
    """
    if y.dtype.kind == "f":
        raise DataError(
            f"{name}: has the dtype {y.dtype}; classes are integers 0…k − 1. For numbers: --task regression "
            "(in Python task='regression')"
        )
    if y.ndim > 2 or y.size != len(y):
        raise DataError(f"{name}: has shape {y.shape}; needs one class for each sample, shape (samples,)")
    found = torch.from_numpy(y.reshape(-1).astype(np.int64))
    if int(found.min()) < 0:
        raise DataError(f"{name}: has the label {int(found.min())}; classes are integers 0…k − 1")
    return found


def numbers_tensor(name: str, y: NDArray[Any]) -> Tensor:
    """Numbers to estimate, float32, shape (samples, outputs).

    Args:
        name: what errors call them.
        y: shape (samples,) or (samples, outputs).

    Raises:
        DataError: NaN or infinite numbers, or another shape.
    """
    if y.ndim > 2:
        raise DataError(f"{name}: has shape {y.shape}; needs (samples,) or (samples, outputs)")
    with np.errstate(over="ignore"):
        numbers = np.ascontiguousarray(y.reshape(len(y), -1).astype(np.float32))
    if not np.isfinite(numbers).all():
        raise DataError(f"{name}: has NaN or infinite numbers")
    return torch.from_numpy(numbers)

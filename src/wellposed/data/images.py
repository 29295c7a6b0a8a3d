"""Image classification sets behind one loader: float pixels in [0, 1], standard files, checksums."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from wellposed.data.base import ImageData
from wellposed.data.cifar import load_cifar10, load_cifar10_jpeg, load_cifar10_lossless
from wellposed.data.files import data_folder
from wellposed.data.mnist import IDX_NAMES, load_idx_set
from wellposed.data.svhn import load_svhn
from wellposed.errors import checked_options, choices, require

_LOADERS: dict[str, Callable[[Path], ImageData]] = {
    "cifar10": load_cifar10,
    "cifar10-jpeg": load_cifar10_jpeg,
    "cifar10-lossless": load_cifar10_lossless,
    "svhn": load_svhn,
}
IMAGE_NAMES = ("digits", *IDX_NAMES, *_LOADERS)


@checked_options
def load_images(name: str, data_root: str | Path | None = None) -> ImageData:
    """Load a data set by name.

    Args:
        name: ``digits`` (ships with scikit-learn), ``mnist``, ``fashion-mnist``, ``cifar10``, ``cifar10-jpeg``,
            ``cifar10-lossless`` or ``svhn``.
        data_root: folder with the standard layout, e.g. ``MNIST/raw/train-images-idx3-ubyte.gz``; None for the
            environment variable ``WELLPOSED_DATA``, else ``~/.cache/wellposed``. Missing files are downloaded there.

    Raises:
        InputError: no set has that name.
        DataError: a file is missing and cannot be downloaded, or is corrupt.
        MissingExtraError: scikit-learn, which brings scipy, or Pillow is not installed.
    """
    choices("data", name, IMAGE_NAMES)
    if name == "digits":
        return _digits()
    root = data_folder(data_root)
    return load_idx_set(name, root) if name in IDX_NAMES else _LOADERS[name](root)


def _digits() -> ImageData:
    """1,797 digits of 8×8 pixels with 17 grey levels, every fifth one for testing."""
    bunch = require("sklearn.datasets", "train").load_digits()
    x = torch.from_numpy((bunch.images / 16.0).astype(np.float32))[:, None]
    y = torch.from_numpy(bunch.target.astype(np.int64))
    test = torch.arange(len(y), device="cpu") % 5 == 4
    return ImageData(
        name="digits", train_x=x[~test], train_y=y[~test], test_x=x[test], test_y=y[test], mean=(0.3053,), std=(0.3761,)
    )

"""SVHN, the cropped digits in MATLAB files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wellposed.data.base import ImageData
from wellposed.data.files import ANEW, download, published, readable
from wellposed.errors import DataError, require

_URL = "http://ufldl.stanford.edu/housenumbers/"
# Of the published files.
_MD5 = {"train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373", "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3"}


def load_svhn(root: Path) -> ImageData:
    """From ``SVHN/train_32x32.mat`` and ``SVHN/test_32x32.mat``, downloaded if they are not there."""
    (train_x, train_y), (test_x, test_y) = (_split(root / "SVHN" / f"{name}_32x32.mat") for name in ("train", "test"))
    return ImageData(
        name="svhn", train_x=train_x, train_y=train_y, test_x=test_x, test_y=test_y, mean=(0.4377, 0.4438, 0.4728),
        std=(0.1980, 0.2010, 0.1970),
    )  # fmt: skip


def _split(path: Path) -> tuple[Tensor, Tensor]:
    loadmat = require("scipy.io", "train").loadmat
    if not path.exists():
        download(_URL + path.name, path)
    stored = published(path, _MD5[path.name], ANEW)
    with readable(path, "a MATLAB file with X and y", ANEW):
        content = loadmat(io.BytesIO(stored))
        images, labels = content["X"], content["y"]
    if images.ndim != 4 or images.shape[:3] != (32, 32, 3) or images.shape[3] != labels.size:
        raise DataError(f"{path}: X has shape {images.shape} for {labels.size} labels; needs (32, 32, 3, samples)")
    pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(3, 2, 0, 1))).float() / 255.0
    return pixels, torch.from_numpy(labels.reshape(-1).astype(np.int64) % 10)  # the digit zero is stored as ten

"""Image classification sets behind one loader: float pixels in [0, 1], standard files, checksums."""

from __future__ import annotations

import gzip
import hashlib
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wellposed.data.idx import parse_idx
from wellposed.errors import DataError, choices, require

ENVIRONMENT_VARIABLE = "WELLPOSED_DATA"


@dataclass(frozen=True)
class ImageData:
    """A data set.

    Attributes:
        name: its name.
        train_x: float32 pixels in [0, 1], shape (samples, channels, height, width).
        train_y: classes, int64.
        test_x: likewise.
        test_y: likewise.
        mean: per-channel mean used for standardisation inside models.
        std: per-channel standard deviation, likewise.
        classes: number of classes.
    """

    name: str
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: int = 10


@dataclass(frozen=True)
class _IdxSet:
    folder: str
    url: str
    mean: float
    std: float
    sha256: dict[str, str]


_IDX_SETS = {
    "mnist": _IdxSet(
        "MNIST", "https://ossci-datasets.s3.amazonaws.com/mnist/", 0.1307, 0.3081,
        {
            "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        },
    ),
    "fashion-mnist": _IdxSet(
        "FashionMNIST", "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/", 0.2860, 0.3530,
        {
            "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        },
    ),
}  # fmt: skip
IMAGE_NAMES = ("digits", *_IDX_SETS)


def load_images(name: str, data_root: str | Path | None = None) -> ImageData:
    """Load a data set by name.

    Args:
        name: ``digits`` (ships with scikit-learn), ``mnist`` or ``fashion-mnist``.
        data_root: folder with the standard layout, e.g. ``MNIST/raw/train-images-idx3-ubyte.gz``; None for the
            environment variable ``WELLPOSED_DATA``, else ``~/.cache/wellposed``. Missing files are downloaded there.

    Raises:
        InputError: no set has that name.
        DataError: a file is missing and cannot be downloaded, or is corrupt.
        MissingExtraError: scikit-learn is not installed.
    """
    choices("data", name, IMAGE_NAMES)
    if name == "digits":
        return _digits()
    entry = _IDX_SETS[name]
    root = data_folder(data_root)
    parts = {file: parse_idx(_read(root / entry.folder / "raw", file, entry), file) for file in entry.sha256}
    images = {split: _pixels(parts[f"{split}-images-idx3-ubyte.gz"]) for split in ("train", "t10k")}
    labels = {split: torch.from_numpy(parts[f"{split}-labels-idx1-ubyte.gz"].astype(np.int64)) for split in images}
    return ImageData(
        name, images["train"], labels["train"], images["t10k"], labels["t10k"], (entry.mean,), (entry.std,)
    )


def data_folder(data_root: str | Path | None) -> Path:
    """The folder that was given, else that of ``WELLPOSED_DATA``, else ``~/.cache/wellposed``."""
    return Path(data_root or os.environ.get(ENVIRONMENT_VARIABLE) or Path.home() / ".cache" / "wellposed")


def _pixels(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.float32) / 255.0)[:, None]


def _digits() -> ImageData:
    """1,797 digits of 8×8 pixels with 17 grey levels, every fifth one for testing."""
    bunch = require("sklearn.datasets", "train").load_digits()
    x = torch.from_numpy((bunch.images / 16.0).astype(np.float32))[:, None]
    y = torch.from_numpy(bunch.target.astype(np.int64))
    test = torch.arange(len(y)) % 5 == 4
    return ImageData("digits", x[~test], y[~test], x[test], y[test], (0.3053,), (0.3761,))


def _read(folder: Path, file: str, entry: _IdxSet) -> bytes:
    path, plain = folder / file, folder / file.removesuffix(".gz")
    if not path.exists() and plain.exists():
        return plain.read_bytes()  # unpacked by hand: the parser checks its structure
    if not path.exists():
        _download(entry.url + file, path)
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != entry.sha256[file]:
        raise DataError(
            f"{path}: SHA-256 differs from that of the published file; it is corrupt or another file. Delete it and run "
            "again to download it anew"
        )
    return gzip.decompress(content)


def _download(url: str, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".part")
        with urllib.request.urlopen(url, timeout=20) as response:
            partial.write_bytes(response.read())
        partial.replace(path)
    except (OSError, urllib.error.URLError) as error:
        root = path.parents[2]
        raise DataError(
            f"{path}: not found, and downloading it failed ({error}). Put the file there, or point --data-root or "
            f"{ENVIRONMENT_VARIABLE} to a folder that has {path.relative_to(root)}"
        ) from error

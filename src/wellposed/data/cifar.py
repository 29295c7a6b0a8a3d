"""CIFAR-10: the standard python batches, and two archives of it for places without the originals."""

from __future__ import annotations

import io
import itertools
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wellposed.data.base import ImageData
from wellposed.data.files import ANEW, ENVIRONMENT_VARIABLE, download, published, readable
from wellposed.errors import DataError, require

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
_FOLDER = "cifar-10-batches-py"
_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
_ARCHIVE = "c58f30108f718f92721af3b95e74349a"  # MD5 of the published archive
# SHA-256 of archives that are not the publisher's.
_ARCHIVES = {
    "cifar10_lossless_subset.npz": "a8bf83c7faf38cd62e25be56da87b1dd3548d2c5b3ea667ae85b7c35076475e9",
    "cifar10_jpeg_q75.npz": "793e4ede56cf08668e9ec4fe4093dc63e232294dde60bd5242b9cf980d116d97",
}
# MD5 of the published files.
_BATCHES = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
# What numpy's arrays need to come out of a pickle, and nothing else.
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct"), ("numpy", "ndarray"),
    ("numpy", "dtype"), ("_codecs", "encode"),
}  # fmt: skip


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise DataError(f"{module}.{name}: a CIFAR batch has arrays only; this file would run other code")
        return super().find_class(module, name)


def load_cifar10(root: Path) -> ImageData:
    """The published set from ``cifar-10-batches-py``, downloaded if it is not there; pickles are read for arrays only."""
    folder = root / _FOLDER
    if not (folder / "test_batch").exists():
        _fetch(root)
    parts = {name: _batch(folder / name, digest) for name, digest in _BATCHES.items()}
    training = [parts[name] for name in _BATCHES if name != "test_batch"]
    train_x = np.concatenate([images for images, _ in training])
    train_y = np.concatenate([labels for _, labels in training])
    test_x, test_y = parts["test_batch"]
    images, labels = {"train": _pixels(train_x), "test": _pixels(test_x)}, {"train": train_y, "test": test_y}
    return _of("cifar10", images, {split: torch.from_numpy(array) for split, array in labels.items()})


def _fetch(root: Path) -> None:
    archive = root / "cifar-10-python.tar.gz"
    if not archive.exists():
        try:
            download(_URL, archive)
        except DataError as error:
            raise DataError(
                f"{root / _FOLDER / 'test_batch'}: not found, and downloading the archive failed. Unpack cifar-10-python.tar.gz "
                f"in {root}, or point --data-root or {ENVIRONMENT_VARIABLE} to a folder that has {_FOLDER}/test_batch; "
                "--data cifar10-jpeg or cifar10-lossless read other archives"
            ) from error
    content = published(archive, _ARCHIVE, ANEW)
    with readable(archive, "a readable archive", ANEW), tarfile.open(fileobj=io.BytesIO(content)) as opened:
        opened.extractall(root, filter="data")


def _batch(path: Path, digest: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    content = published(path, digest, "unpack the whole of cifar-10-python.tar.gz")
    with readable(path, "a batch of CIFAR-10", "unpack the whole of cifar-10-python.tar.gz"):
        found = _ArraysOnly(io.BytesIO(content), encoding="latin1").load()
        images = np.asarray(found["data"], dtype=np.uint8).reshape(-1, 3, 32, 32)
        return images, np.asarray(found["labels"], dtype=np.int64)


def load_cifar10_lossless(root: Path) -> ImageData:
    """A subset with exact pixels, ``cifar10-subset/cifar10_lossless_subset.npz``: 7,897 training and 1,000 test images."""
    parts = _archive(
        root / "cifar10-subset" / "cifar10_lossless_subset.npz", ("x_train", "y_train", "x_test", "y_test")
    )
    images = {split: _pixels(parts[f"x_{split}"].transpose(0, 3, 1, 2)) for split in ("train", "test")}
    labels = {split: torch.from_numpy(parts[f"y_{split}"].astype(np.int64)) for split in images}
    return _of("cifar10-lossless", images, labels)


def load_cifar10_jpeg(root: Path) -> ImageData:
    """All images, recompressed as JPEG: ``cifar10-jpeg/cifar10_jpeg_q75.npz``. Say so beside every figure measured on it."""
    names = [f"{split}_{part}" for split in ("train", "test") for part in ("jpeg", "offsets", "labels")]
    parts = _archive(root / "cifar10-jpeg" / "cifar10_jpeg_q75.npz", tuple(names))
    images = {split: _decoded(parts[f"{split}_jpeg"], parts[f"{split}_offsets"]) for split in ("train", "test")}
    labels = {split: torch.from_numpy(parts[f"{split}_labels"].astype(np.int64)) for split in images}
    return _of("cifar10-jpeg", images, labels)


def _of(name: str, images: dict[str, Tensor], labels: dict[str, Tensor]) -> ImageData:
    return ImageData(
        name=name, train_x=images["train"], train_y=labels["train"], test_x=images["test"], test_y=labels["test"], mean=MEAN,
        std=STD,
    )  # fmt: skip


def _archive(path: Path, names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    place = f"point --data-root or {ENVIRONMENT_VARIABLE} to a folder that has {path.parent.name}/{path.name}"
    if not path.exists():
        raise DataError(f"{path}: not found; put the archive there, or {place}")
    content = published(path, _ARCHIVES[path.name], place)
    kind = f"a readable archive with {', '.join(names)}"
    with readable(path, kind, place), np.load(io.BytesIO(content), allow_pickle=False) as archive:
        return {name: archive[name] for name in names}


def _decoded(content: NDArray[np.uint8], offsets: NDArray[np.int64]) -> Tensor:
    image = require("PIL.Image", "train")
    found = np.empty((len(offsets) - 1, 32, 32, 3), dtype=np.uint8)
    for index, (begin, end) in enumerate(itertools.pairwise(offsets)):
        found[index] = np.asarray(image.open(io.BytesIO(content[begin:end].tobytes())).convert("RGB"))
    return _pixels(found.transpose(0, 3, 1, 2))


def _pixels(array: NDArray[np.uint8]) -> Tensor:
    """Shape (samples, 3, height, width), float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(array)).float() / 255.0

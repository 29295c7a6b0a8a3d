"""MNIST and Fashion-MNIST."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wellposed.data.base import ImageData
from wellposed.data.files import download
from wellposed.data.idx import parse_idx
from wellposed.errors import DataError


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
IDX_NAMES = tuple(_IDX_SETS)


def load_idx_set(name: str, root: Path) -> ImageData:
    """MNIST or Fashion-MNIST from ``FOLDER/raw/*.gz``, downloaded if they are not there."""
    entry = _IDX_SETS[name]
    parts = {file: parse_idx(_read(root / entry.folder / "raw", file, entry), file) for file in entry.sha256}
    images = {split: _pixels(parts[f"{split}-images-idx3-ubyte.gz"]) for split in ("train", "t10k")}
    labels = {split: torch.from_numpy(parts[f"{split}-labels-idx1-ubyte.gz"].astype(np.int64)) for split in images}
    return ImageData(
        name=name, train_x=images["train"], train_y=labels["train"], test_x=images["t10k"], test_y=labels["t10k"],
        mean=(entry.mean,), std=(entry.std,),
    )  # fmt: skip


def _pixels(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.float32) / 255.0)[:, None]


def _read(folder: Path, file: str, entry: _IdxSet) -> bytes:
    path, plain = folder / file, folder / file.removesuffix(".gz")
    if not path.exists() and plain.exists():
        return plain.read_bytes()  # unpacked by hand: the parser checks its structure
    if not path.exists():
        download(entry.url + file, path)
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != entry.sha256[file]:
        raise DataError(
            f"{path}: SHA-256 differs from that of the published file; it is corrupt or another file. Delete it and run "
            "again to download it anew"
        )
    return gzip.decompress(content)

"""MNIST and Fashion-MNIST, and the IDX file format that they come in."""

from __future__ import annotations

import gzip
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wellposed.data.base import ImageData
from wellposed.data.files import ANEW, download, published, readable
from wellposed.errors import DataError

_UNSIGNED_BYTE = 0x08  # the code of that type in a header


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
        with readable(plain, "a readable file", ANEW):
            return plain.read_bytes()  # unpacked by hand: the parser checks its structure
    if not path.exists():
        download(entry.url + file, path)
    content = published(path, entry.sha256[file], ANEW)
    with readable(path, "a gzip file", ANEW):
        return gzip.decompress(content)


def parse_idx(content: bytes, name: str) -> NDArray[np.uint8]:
    """Parse an IDX file of unsigned bytes.

    Args:
        content: the uncompressed file.
        name: what to call it in errors.

    Raises:
        DataError: not such a file, or its length does not match its header.
    """
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != _UNSIGNED_BYTE:
        raise DataError(f"{name}: not an IDX file of unsigned bytes")
    dimensions = content[3]
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise DataError(f"{name}: ends within its header; the file is truncated or corrupt")
    shape = tuple(int(size) for size in np.frombuffer(content[4:start], dtype=">u4"))
    if len(content) - start != math.prod(shape):
        raise DataError(
            f"{name}: {len(content) - start} bytes of data for shape {shape}; the file is truncated or corrupt"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)

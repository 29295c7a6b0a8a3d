"""Small sets of random images in the layout of MNIST's files."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path

import numpy as np


def idx(array: np.ndarray) -> bytes:
    """A compressed IDX file of bytes."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return gzip.compress(header + array.astype(np.uint8).tobytes())


def write_images(root: Path, counts: Mapping[str, int], size: tuple[int, int]) -> Path:
    """Write images and labels, which count up from zero to nine, for parts ``train`` and ``t10k``.

    Returns:
        The folder of the files.
    """
    folder, random = root / "MNIST" / "raw", np.random.default_rng(0)
    folder.mkdir(parents=True)
    for part, count in counts.items():
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(idx(random.integers(0, 256, (count, *size))))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx(np.arange(count) % 10))
    return folder

"""What every image set is, and where its files are."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from wellposed.errors import DataError

ENVIRONMENT_VARIABLE = "WELLPOSED_DATA"


@dataclass(frozen=True, eq=False)
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


def data_folder(data_root: str | Path | None) -> Path:
    """The folder that was given, else that of ``WELLPOSED_DATA``, else ``~/.cache/wellposed``."""
    return Path(data_root or os.environ.get(ENVIRONMENT_VARIABLE) or Path.home() / ".cache" / "wellposed")


def download(url: str, path: Path) -> None:
    """Fetch a file; what arrives is checked by the caller.

    Raises:
        DataError: it cannot be had; the message says what to put where.
    """
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

"""Where the files of data sets are, and how they get there."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from pathlib import Path

from wellposed.errors import DataError

ENVIRONMENT_VARIABLE = "WELLPOSED_DATA"


def data_folder(data_root: str | Path | None) -> Path:
    """The folder that was given, else the folder in ``WELLPOSED_DATA``, else ``~/.cache/wellposed``."""
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

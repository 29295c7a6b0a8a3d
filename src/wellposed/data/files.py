"""Where the files of data sets are, how they get there, and how they are known to be the published ones."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from wellposed.errors import DataError, WellposedError
from wellposed.writing import written_whole

ENVIRONMENT_VARIABLE = "WELLPOSED_DATA"
ANEW = "move it away and run again to download the published one"


def data_folder(data_root: str | Path | None) -> Path:
    """The folder that was given, else the folder in ``WELLPOSED_DATA``, else ``~/.cache/wellposed``."""
    return Path(data_root or os.environ.get(ENVIRONMENT_VARIABLE) or Path.home() / ".cache" / "wellposed")


def fetch(url: str) -> bytes:
    """What is at an address.

    Raises:
        OSError: it cannot be had, or ends too early.
    """
    try:
        with urllib.request.urlopen(url, timeout=20) as response:
            content: bytes = response.read()
            return content
    except (http.client.HTTPException, ValueError) as error:
        raise OSError(f"{type(error).__name__}: {error}") from error


def download(url: str, path: Path) -> None:
    """Fetch a file, which appears whole or not at all; what arrives is checked by the caller.

    Raises:
        DataError: it cannot be had; the message says what to put where.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as unfinished:
            unfinished.write_bytes(fetch(url))
    except OSError as error:
        root = path.parents[2]
        raise DataError(
            f"{path}: not found, and downloading it failed ({error}). Put the file there, or point --data-root or "
            f"{ENVIRONMENT_VARIABLE} to a folder that has {path.relative_to(root)}"
        ) from error


def published(path: Path, digest: str, mend: str) -> bytes:
    """The content of a published file.

    Args:
        path: of the file.
        digest: of the published content: its SHA-256 or, of 32 digits, its MD5.
        mend: what to do where it is another file.

    Raises:
        DataError: it cannot be read, or has other content.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {mend}") from error
    name = "MD5" if len(digest) == 32 else "SHA-256"
    found = hashlib.new("md5" if len(digest) == 32 else "sha256", content, usedforsecurity=False)
    if found.hexdigest() != digest:
        raise DataError(
            f"{path}: {name} differs from that of the published file; it is corrupt or another file; {mend}"
        )
    return content


@contextlib.contextmanager
def readable(path: Path, kind: str, mend: str) -> Iterator[None]:
    """Turn what readers raise of damaged files into one error.

    Args:
        path: of the file.
        kind: what it should be.
        mend: what to do where it is not.

    Raises:
        DataError: the file is not of that kind.
    """
    try:
        yield
    except WellposedError:
        raise
    except Exception as error:  # broken files fail in many ways
        said = " ".join(str(error).split())[:200]
        if "pickle" in said:  # numpy's advice would run code out of the file
            said = "no arrays"
        raise DataError(f"{path}: not {kind} ({type(error).__name__}: {said}); {mend}") from error

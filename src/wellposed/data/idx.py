"""The IDX file format of MNIST and its relatives."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from wellposed.errors import DataError

_UNSIGNED_BYTE = 0x08


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

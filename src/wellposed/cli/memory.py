"""Memory that is freed is kept for what comes next: to get it anew takes time at every step of a training."""

from __future__ import annotations

import ctypes
import os

# Of glibc's mallopt: what may be free before memory is given back, and from what size on it is never kept.
_TRIM_THRESHOLD, _MAP_THRESHOLD = -1, -3
_KEPT, _LARGE = 512 << 20, 32 << 20  # bytes; the second is the most that glibc takes


def keep_memory() -> bool:
    """Have the process keep up to half a gigabyte that it has freed, where its allocator can be told, and was told nothing else.

    Returns:
        Whether it does.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        tell = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    return bool(tell(_TRIM_THRESHOLD, _KEPT)) and bool(tell(_MAP_THRESHOLD, _LARGE))

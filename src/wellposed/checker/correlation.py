"""Convolutions of a file, by which pixels their outputs see, as circular correlations on grids, whose norms frequencies tell."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .frequencies import LONGEST, gram, norm_of_gram
from .proofs import Array, near_one

Shape = tuple[int, ...]
Strides = tuple[int, int]
_STEPS, _WORK = 16, 1e9  # strides that are tried; products that the matrices of all frequencies may take
Extent = Callable[[int, int, int, int], int]


def same(size: int, count: int, taps: int, step: int) -> int:
    """As many rows as there are outputs: windows may reach around the image."""
    return count


def large(size: int, count: int, taps: int, step: int) -> int:
    """So many rows that a convolution with zero padding is a part of the circular one."""
    return -(-(size + taps - 1) // step)


def larger(size: int, count: int, taps: int, step: int) -> int:
    """More rows than outputs by as many as there are taps, whatever the stride."""
    return count + taps


def circular(
    seen: Array, image: Shape, window: Shape, needed: Array, extents: tuple[Extent, ...]
) -> tuple[tuple[int, int], Strides] | None:
    """A grid, and strides, of a circular correlation with centred taps that at some outputs sees what windows see.

    So the windows' convolution, at these outputs, is a part of it. None where none is known.

    Args:
        seen: pixels that the windows see, shape (outputs, taps); from rows·columns on there are none.
        image: rows and columns of the pixels.
        window: rows and columns of the taps.
        needed: at which outputs, shape (rows, columns).
        extents: of the grid that are tried, from pixels, outputs and taps of one axis and the stride.
    """
    seen = seen.reshape(*needed.shape, *window)
    real, axes = (seen < image[0] * image[1]) & needed[:, :, None, None], list[tuple[int, int, Array]]()
    for axis, places in enumerate((seen // image[1], seen % image[1])):
        others = (1 - axis, 3 - axis)
        most = np.where(real, places, -1).max(others)
        if (np.where(real, places, most[_wide(axis)]) != most[_wide(axis)]).any():
            return None
        found = _along(most, image[axis], np.asarray(needed.any(1 - axis)), extents)
        if found is None:
            return None
        axes.append(found)
    (down, first, rows), (right, second, columns) = axes
    inside = (rows >= 0)[_wide(0)] & (columns >= 0)[_wide(1)]
    places = np.where(inside, rows[_wide(0)] * image[1] + columns[_wide(1)], image[0] * image[1])
    if (places != seen)[needed].any():
        return None
    return (down, right), (first, second)


def _wide(axis: int) -> tuple[slice | None, ...]:
    """The index that spreads what is known of one axis over outputs and taps of both."""
    return (slice(None), None, slice(None), None) if axis == 0 else (None, slice(None), None, slice(None))


def _along(places: Array, size: int, known: Array, extents: tuple[Extent, ...]) -> tuple[int, int, Array] | None:
    """Along one axis the extent of the grid, the stride, and the places that its windows see, −1 for none."""
    count, taps = places.shape
    usual = np.argwhere((places >= 0) & known[:, None])
    for extent, step in itertools.product(extents, range(1, _STEPS + 1)):
        rows = extent(size, count, taps, step)
        if rows < count:
            continue
        canvas = np.arange(count)[:, None] * step + np.arange(taps)
        start = int(canvas[tuple(usual[0])] - places[tuple(usual[0])]) if len(usual) else 0
        side = (canvas - start) % (step * rows)
        side = np.where(side < size, side, -1)
        if (side == places)[known].all():
            return rows, step, side
    return None


def norm(kernel: Array, seen: Array, image: Shape, outputs: Shape) -> Any | None:
    """A proved bound of a convolution's norm by its matrices at every frequency; None where none is known."""
    found = circular(seen, image, kernel.shape[2:], np.ones(outputs, bool), (same, large))
    if found is None:
        return None
    grid, strides = found
    work = math.prod(grid) * kernel.size * (len(kernel) + math.prod(strides))
    scaled, exponent = near_one(kernel)
    few = work < _WORK and max(grid) <= LONGEST
    return norm_of_gram(*gram(scaled, grid, strides), exponent) if few else None

"""Convolutions and pooling: which pixels their windows see, and their Euclidean constants."""

import itertools
import math
from typing import Any

import numpy as np

from . import correlation
from .claim import Claim
from .maps import Linear
from .node import Node
from .proofs import FOLDED, Array, Refuted, require, rounding_constant, up
from .shapes import LARGEST, Shape, target

_AROUND, _SPREAD = 64, 16  # paddings and dilations that are tried


def shape(node: Node, given: Shape) -> Shape:
    """The shape of what a node with windows gives; which pixels these see is checked."""
    index, found = node.numbers["index"], target(node.numbers["shape"], node.name)
    require(len(given) == len(found) == 3 and index.ndim == 2, "shapes", f"{node.name} makes {found} of {given}")
    if node.kind == "Convolution":
        kernel, bias = node.numbers["K"], node.numbers["b"]
        fits = kernel.ndim == 4 and kernel.shape[:2] == (found[0], given[0]) and bias.shape == (found[0], 1, 1)
        require(fits and kernel[0].size <= LARGEST, "shapes", f"{node.name}: a kernel {kernel.shape} for {given}")
        windows = [kernel.shape[2:]]
    else:
        require(found[0] == given[0], "shapes", f"{node.name} makes {found} of {given}")
        windows = [
            (rows, index.shape[1] // rows) for rows in range(1, index.shape[1] + 1) if index.shape[1] % rows == 0
        ]
    require(len(index) == found[1] * found[2], "shapes", f"{node.name}: {len(index)} windows for {found}")
    padded, known = node.kind == "Convolution", (correlation.same, correlation.large)
    usual = padded and correlation.circular(index, given[1:], windows[0], np.ones(found[1:], bool), known) is not None
    if not usual and not any(_regular(index, given[1:], window, found[1:], padded) for window in windows):
        raise Refuted("windows", f"{node.name}: the windows are in no regular places")
    if node.kind == "AveragePooling":
        require(len(np.unique(index)) == index.size, "windows", f"{node.name}: the windows overlap")
    if node.kind == "MaximumPooling":
        shared, overlap = int(np.unique(index, return_counts=True)[1].max()), float(node.numbers["overlap"])
        require(up(math.sqrt(shared)) <= overlap < 1e100, "options", f"{node.name}: {shared} windows share a pixel")
    return found


def _regular(index: Array, image: Shape, window: Shape, counts: Shape, padded: bool) -> bool:
    """Whether windows are where some strides, paddings and dilations put them; each tap then sees a pixel once."""
    largest = image[0] * image[1] - (not padded)
    if math.prod(window) != index.shape[1] or not 0 <= index.min() < image[0] * image[1] or index.max() > largest:
        return False
    seen = index.reshape(counts[0], counts[1], window[0], window[1])
    real, sides = seen < image[0] * image[1], []
    for axis, places in enumerate((seen // image[1], seen % image[1])):
        size, taps, count, known = image[axis], window[axis], counts[axis], list[Array]()
        spreads = range(1, _SPREAD + 1) if taps > 1 else (1,)
        for spread, around in itertools.product(spreads, range(_AROUND + 1) if padded else (0,)):
            room = size + 2 * around - spread * (taps - 1) - 1
            steps = range(room // count + 1, room // (count - 1) + 1) if count > 1 else (room + 1,)
            for step in steps if room >= 0 else ():
                side = np.arange(count)[:, None] * step - around + np.arange(taps) * spread
                wide = side[:, None, :, None] if axis == 0 else side[None, :, None, :]
                known += [side] if (~real | (places == wide)).all() else []
        sides.append(known)
    for rows, columns in itertools.product(*sides):
        tall, wide = rows[:, None, :, None], columns[None, :, None, :]
        inside = (tall >= 0) & (tall < image[0]) & (wide >= 0) & (wide < image[1])
        places = np.where(inside, tall * image[1] + wide, image[0] * image[1])
        if (inside.all() or padded) and (places.reshape(index.shape) == index).all():
            return True
    return False


def by_channel(matrix: Array, shape: tuple[int, ...]) -> Array | None:
    """What a diagonal matrix multiplies each channel of an image with; None if it is another matrix."""
    if matrix.ndim != 1 or len(shape) != 3:
        return None
    rows = matrix.reshape(shape[0], -1)
    return rows[:, 0] if (rows == rows[:, :1]).all() else None


def constant(node: Node, nodes: list[Node], claim: Claim) -> Any:
    """The Euclidean constant of a convolution or a pooling."""
    if node.kind == "MaximumPooling":
        return node.numbers["overlap"][()]
    if node.kind == "AveragePooling":
        return up(np.sqrt(1.0 / node.numbers["index"].shape[1]) * (1.0 + 1e-15))
    return _norm(node, nodes[node.sources[0]].shape, np.ones(node.shape[0]))


def behind(nodes: list[Node], path: Linear, found: list[Any]) -> list[Any]:
    """The constant of an edge by a convolution of which each channel is scaled behind it; none if its path is another."""
    first = nodes[path.start]
    if first.kind != "Convolution":
        return []
    scale, before = by_channel(path.matrix, first.shape), first.sources[0]
    return [] if scale is None else [up(_norm(first, nodes[before].shape, scale) * found[before])]


def _norm(node: Node, given: Shape, scale: Array) -> Any:
    """Of a convolution whose channels are scaled, by the matrices of its frequencies, or by Young's inequality for its taps."""
    kernel = node.numbers["K"] * scale[:, None, None, None]
    sums, rounding = np.abs(kernel).sum((2, 3)), 1.0 + rounding_constant(kernel.size + 16 + 2 * FOLDED)
    young = up(np.sqrt(sums.sum(0).max() * sums.sum(1).max()) * rounding)
    found = correlation.norm(kernel, node.numbers["index"], given[1:], node.shape[1:])
    return young if found is None else min(young, found)


def moved(node: Node, given: Array) -> Array:
    """How far the entries of a node's value move at most, from how far the pixels do, in columns."""
    index = node.numbers["index"]
    channels = node.numbers["K"].shape[1] if node.kind == "Convolution" else node.shape[0]
    pixels = given.reshape(channels, -1, given.shape[1])
    if node.kind == "Convolution":
        pixels = np.concatenate([pixels, np.zeros((channels, 1, given.shape[1]))], 1)
        kernel = np.abs(node.numbers["K"]).reshape(len(node.numbers["K"]), channels, -1)
        found = sum(
            np.einsum("oi,iwm->owm", kernel[:, :, tap], pixels[:, index[:, tap]]) for tap in range(index.shape[1])
        )
        return found.reshape(-1, given.shape[1]) * (1.0 + rounding_constant(kernel[0].size + 32)) + 1e-300
    seen = pixels[:, index]
    found = (
        seen.max(2)
        if node.kind == "MaximumPooling"
        else seen.sum(2) / index.shape[1] * (1.0 + rounding_constant(index.shape[1] + 8))
    )
    return found.reshape(-1, given.shape[1])

"""Images whose pixels are put into other places: zeros around them, and pixels that become channels."""

import math
from typing import Any

import numpy as np

from .claim import Claim
from .node import Node
from .proofs import Array, require
from .shapes import Shape, target


def shape(node: Node, given: Shape) -> Shape:
    """The shape of an image with its pixels in other places, none in two, so that its norm is no larger."""
    index, found = node.numbers["index"], target(node.numbers["shape"], node.name)
    fits = len(given) == len(found) == 3 and index.ndim > 0 and math.prod(found) == given[0] * index.size
    require(fits, "shapes", f"{node.name} makes {found} of {given}")
    pixels = given[1] * given[2]  # the place behind them is zero
    inside = index[index < pixels]
    good = index.min() >= 0 and index.max() <= pixels and len(np.unique(inside)) == inside.size
    require(good, "places", f"{node.name}: a pixel is put into two places, or there is none such")
    return found


def constant(node: Node, nodes: list[Node], claim: Claim) -> Any:
    """The Euclidean constant of pixels none of which is put into two places."""
    return node.slope


def moved(node: Node, given: Array) -> Array:
    """How far the entries of a node's value move at most, from how far the pixels do, in columns."""
    channels = node.size // node.numbers["index"].size
    pixels = given.reshape(channels, -1, given.shape[1])
    pixels = np.concatenate([pixels, np.zeros((channels, 1, given.shape[1]))], 1)
    return pixels[:, node.numbers["index"].reshape(-1)].reshape(node.size, -1)

"""State maps of images that are zero-padded convolutions and keep the size of an image."""

import numpy as np

from .node import Node
from .proofs import Array, require
from .shapes import LARGEST, Shape, target


def shape(node: Node, given: Shape) -> Shape:
    """The shape of a state that a zero-padded convolution keeps; its windows are shown to be centred at the pixels."""
    kernel, numbers = node.numbers["K"], node.numbers
    square = len(given) == 3 and kernel.ndim == 4 and kernel.shape[:2] == (given[0], given[0])
    require(square and kernel[0].size <= LARGEST, "shapes", f"{node.name}: a kernel {kernel.shape} for {given}")
    require(all(taps % 2 for taps in kernel.shape[2:]), "windows", f"{node.name}: even numbers of taps have no centre")
    require(target(numbers["shape"], node.name) == given, "shapes", f"{node.name} makes other states of its own")
    right = centred(given[1:], kernel.shape[2:])
    same = numbers["index"].shape == right.shape and bool((numbers["index"] == right).all())
    require(same, "windows", f"{node.name}: its windows are not centred at the pixels")
    require(
        numbers["damping"].shape in ((given[0], 1, 1), (1, 1, 1)), "shapes", f"{node.name}: damping is of another shape"
    )
    return given


def correlated(kernel: Array, index: Array, state: Array) -> Array:
    """What windows with taps make of a state, shape (channels, rows, columns); there are as many windows as pixels."""
    pixels = np.concatenate([state.reshape(len(state), -1), np.zeros((len(state), 1))], 1)
    patches = pixels[:, index].swapaxes(1, 2).reshape(-1, len(index))
    found: Array = kernel.reshape(len(kernel), -1) @ patches
    return found.reshape(len(kernel), *state.shape[1:])


def centred(image: Shape, window: Shape) -> Array:
    """Which pixels windows see whose central taps see the pixels one by one, with zeros around the image."""
    (height, width), (rows, columns) = image, window
    down = np.arange(height)[:, None] + np.arange(rows) - rows // 2
    right = np.arange(width)[:, None] + np.arange(columns) - columns // 2
    tall, wide = down[:, None, :, None], right[None, :, None, :]
    inside = (tall >= 0) & (tall < height) & (wide >= 0) & (wide < width)
    found: Array = np.where(inside, tall * width + wide, height * width).reshape(height * width, -1)
    return found

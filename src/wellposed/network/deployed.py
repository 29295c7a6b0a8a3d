"""What a kind of block needs to write itself down as a part of a deployed network; `wellposed.deployment` implements it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Numbers = Tensor | float | list[int] | list[list[float]]


@dataclass(frozen=True, kw_only=True)
class Edge:
    """A value of a deployed network, and beside it the bound of its error.

    Attributes:
        value: name of the tensor with the value, float64, shape (batch, *shape).
        error: name of the tensor with the bound, float64, shape (batch,).
        shape: of one sample.
    """

    value: str
    error: str
    shape: tuple[int, ...]


class DeployedGraph(Protocol):
    """A deployed network while it is written.

    Attributes:
        allowed: the error at the end of the block that is written next which the tolerance of the network leaves room for.
    """

    allowed: float

    def call(self, function: str, *edges: Edge, shape: tuple[int, ...], **numbers: Numbers) -> Edge:
        """Append a node of the domain ``wellposed``.

        Args:
            function: its name, see `wellposed.checker.functions`.
            edges: what it takes.
            shape: of one sample of what it gives.
            numbers: its numbers, in the order of the function's inputs: tensors are stored in their dtype, floats as float64,
                alone or in lists of lists, and lists of integers as int64.
        """

    def sensitivity(self, matrix: Tensor, metric: Tensor) -> tuple[float, Tensor]:
        """How far an equilibrium z = σ(Wz + q) moves with q, slopes of σ in [0, 1], and the multipliers that prove it.

        Args:
            matrix: W, shape (n, n).
            metric: a diagonal metric in which W is well posed, shape (n,).

        Returns:
            A Euclidean Lipschitz constant, and Λ with M(Λ) − I − Λ²/constant² ⪰ 0, see `wellposed.bounds.metric_inequality`.
        """

    def prove(self, edge: Edge, **evidence: Tensor) -> None:
        """Keep for certificates what proves something of the node that an edge leaves.

        Args:
            edge: a value of the network.
            evidence: by name, see `wellposed.checker`.
        """


def patches(
    image: tuple[int, int],
    window: tuple[int, int],
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
) -> tuple[Tensor, tuple[int, int]]:
    """Which pixels windows see, row by row: for zeros around the image one place behind the last pixel.

    Args:
        image: height and width.
        window: rows and columns.
        stride: from one window to the next.
        padding: zeros above and below, and on the left and right.
        dilation: from one pixel of a window to the next.

    Returns:
        Places, int64, shape (windows, pixels of a window); and how many rows and columns of windows there are.
    """
    sides, counts = [], []
    for size, taps, step, around, spread in zip(image, window, stride, padding, dilation, strict=True):
        count = (size + 2 * around - spread * (taps - 1) - 1) // step + 1
        sides.append(
            torch.arange(count, device="cpu")[:, None] * step - around + torch.arange(taps, device="cpu") * spread
        )
        counts.append(count)
    rows, columns = sides[0][:, None, :, None], sides[1][None, :, None, :]
    inside = (rows >= 0) & (rows < image[0]) & (columns >= 0) & (columns < image[1])
    places = torch.where(inside, rows * image[1] + columns, image[0] * image[1])
    return places.reshape(counts[0] * counts[1], -1), (counts[0], counts[1])


def placement(image: tuple[int, ...], size: tuple[int, ...], border: int) -> Tensor:
    """Which pixels an image has that is put into a larger one: for zeros around it one place behind the last pixel.

    Args:
        image: height and width.
        size: height and width of the larger image.
        border: rows above the image and columns on the left of it.

    Returns:
        Places, int64, shape (pixels of the larger image,).
    """
    rows, columns = (torch.arange(extent, device="cpu") - border for extent in size)
    rows, columns = rows[:, None], columns[None, :]
    inside = (rows >= 0) & (rows < image[0]) & (columns >= 0) & (columns < image[1])
    return torch.where(inside, rows * image[1] + columns, image[0] * image[1]).flatten()


def circular_patches(
    image: tuple[int, int], outputs: tuple[int, ...], kernel: Tensor, place: tuple[int, int, int, int]
) -> Tensor:
    """Which pixels the windows of a circular convolution see of an image in a canvas that its stride divides, as in `patches`.

    Args:
        image: height and width.
        outputs: height and width of what the convolution gives.
        kernel: shape (out, in, rows, columns), rows and columns odd.
        place: zeros on the left, right, top and bottom of the image in its canvas.
    """
    starts, sides = (place[2], place[0]), []
    canvas = (place[2] + image[0] + place[3], place[0] + image[1] + place[1])
    for size, whole, count, taps, start in zip(image, canvas, outputs, kernel.shape[2:], starts, strict=True):
        seen = (
            torch.arange(count, device="cpu")[:, None] * (whole // count) + torch.arange(taps, device="cpu") - taps // 2
        )
        side = seen % whole - start
        sides.append(torch.where((side >= 0) & (side < size), side, -1))
    rows, columns = sides[0][:, None, :, None], sides[1][None, :, None, :]
    places = torch.where((rows >= 0) & (columns >= 0), rows * image[1] + columns, image[0] * image[1])
    return places.reshape(outputs[0] * outputs[1], -1)


def unshuffling(image: tuple[int, int], stride: int) -> Tensor:
    """Which pixels become channels, as in `torch.nn.functional.pixel_unshuffle`, with zeros as in `placement`.

    Args:
        image: height and width.
        stride: rows and columns that become channels.

    Returns:
        Places, int64, shape (stride², pixels that are left).
    """
    rows, columns = (torch.arange(-(-extent // stride), device="cpu") * stride for extent in image)
    inner = torch.arange(stride, device="cpu")
    rows = rows[None, None, :, None] + inner[:, None, None, None]
    columns = columns[None, None, None, :] + inner[None, :, None, None]
    inside = (rows < image[0]) & (columns < image[1])
    return torch.where(inside, rows * image[1] + columns, image[0] * image[1]).reshape(stride**2, -1)

"""What deployed circular convolutions of images have in common."""

from __future__ import annotations

import torch
from torch import Tensor

from wellposed.layers.orthogonal_conv import OrthogonalConv2d
from wellposed.numerics.roots_of_unity import roots_of_unity


def checkable_excess(excess: float, rows: int) -> float:
    """By how much the norm of an orthogonal map may exceed one for a checker, which counts rounding in a coarser way.

    Args:
        excess: that is proved of it.
        rows: of its matrix, or of the larger side.
    """
    return excess + 1e-12 * max(rows, 100)


def interior_mask(shape: tuple[int, ...], border: int) -> Tensor:
    """Ones, to be broadcast over images, but zeros in a border.

    Args:
        shape: channels, height and width of the images.
        border: rows and columns around the image that are zero.
    """
    if border == 0:
        return torch.ones(1, 1, 1, device="cpu")
    mask = torch.zeros(1, *shape[1:], device="cpu")
    mask[:, border:-border, border:-border] = 1.0
    return mask


def turns(image: tuple[int, ...]) -> dict[str, list[list[float]]]:
    """What the transforms of deployed images are made of: roots of unity for rows and for columns.

    Args:
        image: height and width.
    """
    rows, columns = ([list(part) for part in roots_of_unity(extent)] for extent in image)
    return {"rows": rows, "columns": columns}


def on_grid(part: OrthogonalConv2d) -> Tensor:
    """The matrices of an orthogonal convolution, shape (height, width//2 + 1, out_channels, in_channels, 2)."""
    rows, columns = part.out_image
    return part.transfer().detach().unflatten(0, (rows, columns // 2 + 1))

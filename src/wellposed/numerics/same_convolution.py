"""Zero-padded convolutions that keep the image's size; in float64 on the CPU, where torch's take up to three times as long."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

_PART = 1 << 17  # numbers that are copied at a time, so that a cache holds them


def same_convolution(images: Tensor, kernel: Tensor) -> Tensor:
    """What ``conv2d`` with zeros around the images gives, without a graph where it is done by products of matrices.

    Args:
        images: shape (batch, inputs, height, width).
        kernel: shape (outputs, inputs, rows, columns), rows and columns odd.

    Returns:
        Shape (batch, outputs, height, width).
    """
    rows, columns = kernel.shape[2] // 2, kernel.shape[3] // 2
    plain = (
        images.dtype == torch.float64
        and images.is_cpu
        and not torch.is_grad_enabled()
        and images.numel() > 0 < kernel.numel()
    )
    wrapped = torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0
    if not plain or wrapped or columns >= images.shape[3] or torch.compiler.is_compiling():
        return torch.nn.functional.conv2d(images, kernel, padding=(rows, columns))
    return _by_rows(images, kernel, rows, columns)


def _by_rows(images: Tensor, kernel: Tensor, above: int, left: int) -> Tensor:
    """One product of matrices for each row of taps: images that are moved by every column of taps lie in one matrix."""
    batch, inputs, height, width = images.shape
    outputs, _, rows, columns = kernel.shape
    pixels, high = height * width, height + 2 * above
    taps = kernel.permute(2, 0, 3, 1).reshape(rows, 1, outputs, columns * inputs)
    value = images.new_empty(batch, outputs, pixels)
    count = min(batch, max(1, _PART // (columns * inputs * pixels)))
    moved = images.new_zeros(count, columns, inputs, high, width)
    for first in range(0, batch, count):
        part = images[first : first + count]
        into, room = value[first : first + count], moved[: len(part)]
        for column in range(columns):
            shift = column - left
            near, far = max(0, -shift), width - max(0, shift)
            room[:, column, :, above : above + height, near:far] = part[..., near + shift : far + shift]
        flat = room.view(len(part), columns * inputs, high * width)
        for row in range(rows):
            matrices = taps[row].expand(len(part), -1, -1)
            under = flat[:, :, row * width : row * width + pixels]
            torch.baddbmm(into, matrices, under, beta=float(row > 0), out=into)
    return value.view(batch, outputs, height, width)

"""Augmentation of whole batches, on whatever device they are."""

from __future__ import annotations

import torch
from torch import Tensor


def shift_and_mirror(images: Tensor, reach: int = 4) -> Tensor:
    """Every image shifted by up to ``reach`` pixels in both directions, zeros coming in, and mirrored or not.

    Args:
        images: shape (batch, channels, height, width).
        reach: largest shift, in pixels.
    """
    batch, _, height, width = images.shape
    device = images.device
    down, right = (torch.randint(-reach, reach + 1, (batch, 1), device=device) for _ in range(2))
    rows = torch.arange(height, device=device) + down
    columns = torch.arange(width, device=device) + right
    columns = torch.where(torch.rand(batch, 1, device=device) < 0.5, columns, columns.flip(1))
    samples = torch.arange(batch, device=device)[:, None, None]
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    picked = images[samples, :, rows[:, :, None], columns[:, None, :]]  # (batch, height, width, channels)
    return (picked * inside[..., None]).permute(0, 3, 1, 2)

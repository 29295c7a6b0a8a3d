"""The logits of the worst case in a box of pixels, by intervals: what certified training makes small (Gowal et al. 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wellposed.activations import of_module
from wellposed.errors import InputError
from wellposed.layers import Normalize
from wellposed.layers.equilibrium import Equilibrium
from wellposed.layers.interval import state_interval

_INCREASING = (Normalize, nn.Flatten, nn.Unflatten, nn.Identity, nn.AvgPool2d)


def worst_logits(model: nn.Module, x: Tensor, labels: Tensor, radius: float) -> Tensor:
    """Upper bounds of y_j − y_label over all valid pixels within ``radius`` of an image; differentiable, without rounding.

    Args:
        model: increasing maps, activations, equilibrium layers with a componentwise guarantee, and a linear head at the end.
        x: pixels in [0, 1], shape (batch, channels, height, width).
        labels: classes, shape (batch,).
        radius: in pixel units, of the ℓ∞ ball.

    Returns:
        Shape (batch, classes); zero at the label. Cross-entropy takes them for logits.

    Raises:
        InputError: the model has other blocks.
    """
    blocks = list(model) if isinstance(model, nn.Sequential) else []
    head = blocks.pop() if blocks else None
    if not isinstance(head, nn.Linear):
        raise InputError("model: worst cases need a Sequential with a linear head")
    low, high = (x - radius).clamp_min(0.0), (x + radius).clamp_max(1.0)
    for block in blocks:
        if isinstance(block, Equilibrium):
            low, high = state_interval(block, low, high)
        elif isinstance(block, _INCREASING):
            low, high = block(low), block(high)
        elif (sigma := of_module(block)) is not None:
            low, high = sigma.image(low, high)
        else:
            raise InputError(f"model: no interval of a {type(block).__name__} is known")
    # Differences of rows lose less than bounds of single logits.
    rows = head.weight[None] - head.weight[labels][:, None]
    values = head(0.5 * (low + high))
    spread = torch.einsum("bcf,bf->bc", rows.abs(), 0.5 * (high - low))
    return values - values.gather(1, labels[:, None]) + spread

"""The logits of the worst case in a box of pixels, by intervals: what certified training makes small (Gowal et al. 2018)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from wellposed.activations import of_module
from wellposed.certificates.radius import check_labels
from wellposed.errors import InputError, check, checked_options, shown
from wellposed.layers.interval import state_interval
from wellposed.network.kinds import Block, block_of


@checked_options
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
        GuaranteeError: an equilibrium layer has no componentwise guarantee.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2 or not bool(torch.isfinite(x).all()):
        raise InputError(f"x={shown(x)}: must be a tensor of finite pixels, shape (batch, ...)")
    check_labels(labels, len(x))
    check(0.0 <= radius < math.inf, "radius", radius, "must be finite and not negative")
    chain = model.named_children() if isinstance(model, nn.Sequential) else ()
    blocks = [block_of(name, part) for name, part in chain]
    if not blocks or blocks[-1].linear_map is None:
        raise InputError("model: worst cases need a Sequential with a linear head")
    low, high = (x - radius).clamp_min(0.0), (x + radius).clamp_max(1.0)
    for block in blocks[:-1]:
        low, high = _interval(block, low, high)
    # Differences of rows lose less than bounds of single logits.
    head = blocks[-1].module
    rows = head.weight[None] - head.weight[labels][:, None]
    values = head(0.5 * (low + high))
    spread = torch.einsum("bcf,bf->bc", rows.abs(), 0.5 * (high - low))
    return values - values.gather(1, labels[:, None]) + spread


def _interval(block: Block, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of a block's values for all inputs between two, with their graph; `Block.interval` has no graph, and a proof."""
    if block.affine_layer is not None:
        return state_interval(block.affine_layer, low, high)
    if block.increasing:
        return block.module(low), block.module(high)
    sigma = of_module(block.module)
    if sigma is None or sigma.slope_range[0] < 0.0:
        raise InputError(f"model: no interval of a {block.kind} is known")
    return sigma(low), sigma(high)

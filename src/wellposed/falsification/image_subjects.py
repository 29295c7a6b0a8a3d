"""Convolutional networks for the campaign."""

from __future__ import annotations

import math

import torch
from torch import nn

from wellposed.falsification.subject import Draw, Subject, drawing
from wellposed.layers.conv_lben import ConvLBEN
from wellposed.layers.conv_mondeq import ConvMonDEQ
from wellposed.names import IMAGE_METRICS


def image_subject(generator: torch.Generator) -> Subject:
    """A convolutional network on small images, given flat: monotone with a head, or with a bound of its own."""
    draw = drawing(generator)
    torch.manual_seed(draw(2**31 - 1))
    shape, border = (1 + draw(2), 1 + draw(5), 1 + draw(5)), draw(2)
    if draw(4) == 0:
        return _bounded_subject(shape, border, draw)
    layer = ConvMonDEQ(
        shape[0], 1 + draw(3), shape[1:], m=(0.05, 0.5, 2.0)[draw(3)], border=border, stride=1 + draw(2), taps=(1, 3)[draw(2)],
        dtype=(torch.float32, torch.float64)[draw(2)],
    )  # fmt: skip
    dtype = layer.injection.weight.dtype
    channels, height, width = layer.state_shape
    pool = 1 + draw(min(height, width, 3))
    head = nn.Linear(channels * (height // pool) * (width // pool), 3, dtype=dtype)
    pooling = () if pool == 1 else (nn.AvgPool2d(pool),)
    model = nn.Sequential(nn.Unflatten(1, shape), layer, *pooling, nn.Flatten(), head).eval()
    spread = (1.0, 1.0, 1e-4, 1e4)[draw(4)]
    with torch.no_grad():
        for parameter in model.parameters():
            if draw(2):
                parameter.mul_(1.0 + 2.0 * draw(3))
        if draw(4) == 0:
            scale = 10.0 ** (-8, -3, 3, 8)[draw(4)]
            layer.injection.weight.mul_(scale)
            spread = spread / scale
    return Subject(model, math.prod(shape), spread)


@torch.no_grad()
def _bounded_subject(shape: tuple[int, int, int], border: int, draw: Draw) -> Subject:
    """A convolutional network with a bound, in any metric, from pixels to outputs."""
    layer = ConvLBEN(
        shape[0], 1 + draw(3), shape[1:], gamma=10.0 ** (draw(5) - 2), out_features=2 + draw(2), metric=IMAGE_METRICS[draw(4)],
        input_in_metric=bool(draw(2)), epsilon=(1e-3, 0.1, 1.0)[draw(3)], border=border, stride=1 + draw(2), taps=(1, 3)[draw(2)],
        dtype=torch.float64,
    )  # fmt: skip
    assert layer.output is not None
    for parameter in (layer.constraint.V, layer.constraint.S, layer.injection.free, layer.output.free):
        if draw(2):
            parameter.mul_((0.1, 3.0)[draw(2)])
    if layer.constraint.psi.requires_grad:
        layer.constraint.psi.copy_(float(draw(3)) * torch.randn_like(layer.constraint.psi))
    model = nn.Sequential(nn.Unflatten(1, shape), layer).eval()
    return Subject(model, math.prod(shape), (1.0, 1.0, 1e-4, 1e4)[draw(4)], head=False)

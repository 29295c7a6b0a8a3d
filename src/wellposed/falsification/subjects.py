"""Networks for the campaign: random ones of all families, degenerate ones, and scales that overflow or underflow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wellposed.falsification.subject import Draw, Subject, drawing
from wellposed.layers import SLL, Residual, Sandwich
from wellposed.layers.equilibrium import Equilibrium
from wellposed.layers.lben import LBEN
from wellposed.layers.mondeq import MonDEQ
from wellposed.layers.nemon import NEMON
from wellposed.layers.orthogonal import OrthogonalDEQ
from wellposed.layers.pcdeq import PcDEQ

_KINDS = 8
_UNITS = 10  # of a layer, at most
_WIDE_KINDS = range(5, 8)  # which are float64


def subjects(generator: torch.Generator) -> Iterator[Subject]:
    """Networks without end: dense families and explicit ones, degenerate, of scales from 1e-8 to 1e8, float32 and float64."""
    draw = drawing(generator)
    while True:
        torch.manual_seed(draw(2**31 - 1))
        inputs, size, classes = 2 + draw(6), 2 + draw(_UNITS - 1), 2 + draw(3)
        kind = draw(_KINDS)
        dtype = torch.float64 if kind in _WIDE_KINDS or draw(2) else torch.float32
        made = _made(kind, inputs, size, classes, dtype, draw)
        head = nn.Linear(made.width, classes, dtype=dtype) if made.width else None
        model = nn.Sequential(made.layer, *([] if head is None else [head])).eval()
        spread = _disturb(model, made.weight, head, draw)
        yield Subject(model, inputs, spread, head is not None, made.exact)


@dataclass(frozen=True, eq=False)
class _Made:
    """A layer; the inputs of the head that it needs, or zero; its weights that may be degraded; and what `Subject` says of it."""

    layer: nn.Module
    width: int
    weight: Tensor | None = None
    exact: Equilibrium | None = None


def _made(kind: int, inputs: int, size: int, classes: int, dtype: torch.dtype, draw: Draw) -> _Made:
    """A layer of one of the kinds, with options that are drawn."""

    def equilibrium(layer: Equilibrium) -> _Made:
        return _Made(layer, size, layer.injection.weight, layer)

    def monotone() -> _Made:
        return equilibrium(MonDEQ(inputs, size, m=(0.05, 0.5, 1.0, 20.0)[draw(4)], dtype=dtype))

    def smooth() -> _Made:
        activation = ("tanh", "softplus", "leaky_relu")[draw(3)]
        return equilibrium(MonDEQ(inputs, size, m=0.5, activation=activation, dtype=dtype))

    def in_metric() -> _Made:
        return equilibrium(LBEN(inputs, size, dtype=dtype))

    def bounded() -> _Made:
        layer = LBEN(inputs, size, gamma=10.0 ** (draw(5) - 2), out_features=classes, dtype=dtype)
        return _Made(layer, 0, exact=layer)

    def non_euclidean() -> _Made:
        return equilibrium(NEMON(inputs, size, mu=(-1.0, 0.0, 0.9)[draw(3)], dtype=dtype))

    def concave() -> _Made:
        activation, sharp = ("tanh", "softsign", "sigmoid")[draw(3)], draw(2)
        floor = None if activation == "sigmoid" or not sharp else 1e-5
        sharpness = 1.0 if floor is None else 5.0
        return _Made(PcDEQ(inputs, size, activation=activation, floor=floor, sharpness=sharpness, dtype=dtype), size)

    def orthogonal() -> _Made:
        return _Made(OrthogonalDEQ(inputs, 2 * size, dtype=dtype), 2 * size)

    def explicit() -> _Made:
        residual = (SLL, Residual)[draw(2)]
        layer = Sandwich(inputs, size, dtype=dtype) if draw(2) else residual(inputs, size, dtype=dtype)
        return _Made(layer, layer.out_features)

    makers = (monotone, smooth, in_metric, bounded, non_euclidean, concave, orthogonal, explicit)
    return makers[kind]()


@torch.no_grad()
def _disturb(model: nn.Module, weight: Tensor | None, head: nn.Linear | None, draw: Draw) -> float:
    """Scale or degrade weights in place; the size of inputs that suits them."""
    for parameter in model.parameters():
        if draw(2):
            parameter.mul_(1.0 + 2.0 * draw(3))
    spread = 1.0
    exponents = (-8, -3, 3, 8)
    if weight is not None:
        if draw(3) == 0:
            scale = 10.0 ** exponents[draw(4)]
            weight.mul_(scale)
            spread = 1.0 / scale
        degenerate = draw(8)
        if degenerate == 0:
            weight[draw(len(weight))] = 0.0
        elif degenerate == 1:
            weight.copy_(weight[:1].expand_as(weight))
        elif degenerate == 2:
            weight.zero_()
    if head is not None:
        if draw(3) == 0:
            head.weight.mul_(10.0 ** exponents[draw(4)])
        if draw(6) == 0:
            head.weight[0] = head.weight[1]
        if draw(8) == 0:
            head.bias.add_(1e6 * torch.randn_like(head.bias))
    return spread * (1.0, 1.0, 1e-4, 1e4)[draw(4)]

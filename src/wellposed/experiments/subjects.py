"""Networks for the campaign: random ones of all families, degenerate ones, and scales that overflow or underflow."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from wellposed.constraints.conv_lipschitz_bounded import METRICS
from wellposed.layers import SLL, Residual, Sandwich
from wellposed.layers.conv_lben import ConvLBEN
from wellposed.layers.conv_mondeq import ConvMonDEQ
from wellposed.layers.equilibrium import Equilibrium
from wellposed.layers.graph import ImplicitGraph
from wellposed.layers.graph_classifier import GraphClassifier, NodeSum
from wellposed.layers.lben import LBEN
from wellposed.layers.mondeq import MonDEQ
from wellposed.layers.nemon import NEMON
from wellposed.layers.orthogonal import OrthogonalDEQ
from wellposed.layers.pcdeq import PcDEQ


@dataclass(frozen=True)
class Subject:
    """A network under attack.

    Attributes:
        model: in eval mode.
        inputs: size of its input.
        spread: size of inputs at which its pre-activations are of size one, roughly.
        stored: whether `Network.exact` has the very weights that run.
    """

    model: nn.Sequential
    inputs: int
    spread: float
    stored: bool


def subjects(generator: torch.Generator, *, units: int = 10) -> Iterator[Subject]:
    """Networks without end: dense families and explicit ones, degenerate, of scales from 1e-8 to 1e8, float32 and float64."""
    draw = _drawing(generator)
    while True:
        torch.manual_seed(draw(2**31 - 1))
        inputs, size, classes = 2 + draw(6), 2 + draw(units - 1), 2 + draw(3)
        kind = draw(8)
        dtype = torch.float64 if kind >= 5 or draw(2) else torch.float32
        layer: nn.Module
        if kind == 0:
            layer = MonDEQ(inputs, size, m=(0.05, 0.5, 1.0, 20.0)[draw(4)], dtype=dtype)
        elif kind == 1:
            layer = MonDEQ(inputs, size, m=0.5, activation=("tanh", "softplus", "leaky_relu")[draw(3)], dtype=dtype)
        elif kind == 2:
            layer = LBEN(inputs, size, dtype=dtype)
        elif kind == 3:
            layer = LBEN(inputs, size, gamma=10.0 ** (draw(5) - 2), out_features=classes, dtype=dtype)
        elif kind == 4:
            layer = NEMON(inputs, size, mu=(-1.0, 0.0, 0.9)[draw(3)], dtype=dtype)
        elif kind == 5:
            activation, sharp = ("tanh", "softsign", "sigmoid")[draw(3)], draw(2)
            floor = None if activation == "sigmoid" or not sharp else 1e-5
            sharpness = 1.0 if floor is None else 5.0
            layer = PcDEQ(inputs, size, activation=activation, floor=floor, sharpness=sharpness, dtype=dtype)
        elif kind == 6:
            layer = OrthogonalDEQ(inputs, 2 * size, dtype=dtype)
        else:
            residual = (SLL, Residual)[draw(2)]
            layer = Sandwich(inputs, size, dtype=dtype) if draw(2) else residual(inputs, size, dtype=dtype)
            size = layer.out_features
        width = 2 * size if kind == 6 else size
        head = [] if kind == 3 else [nn.Linear(width, classes, dtype=dtype)]
        model = nn.Sequential(layer, *head).eval()
        spread = _disturb(model, kind, draw)
        yield Subject(model, inputs, spread, kind < 5)


@torch.no_grad()
def _disturb(model: nn.Sequential, kind: int, draw: Callable[[int], int]) -> float:
    """Scale or degrade weights in place; the size of inputs that suits them."""
    layer = model[0]
    for parameter in model.parameters():
        if draw(2):
            parameter.mul_(1.0 + 2.0 * draw(3))
    spread = 1.0
    exponents = (-8, -3, 3, 8)
    if isinstance(layer, Equilibrium) and isinstance(layer.injection, nn.Linear) and kind < 5:
        weight: Tensor = layer.injection.weight
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
    if len(model) > 1:
        head = model[1]
        assert isinstance(head, nn.Linear)
        if draw(3) == 0:
            head.weight.mul_(10.0 ** exponents[draw(4)])
        if draw(6) == 0:
            head.weight[0] = head.weight[1]
        if draw(8) == 0:
            head.bias.add_(1e6 * torch.randn_like(head.bias))
    return spread * (1.0, 1.0, 1e-4, 1e4)[draw(4)]


def image_subject(generator: torch.Generator) -> Subject:
    """A convolutional network on small images, given flat: monotone with a head, or with a bound of its own."""
    draw = _drawing(generator)
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
    return Subject(model, math.prod(shape), spread, True)


@torch.no_grad()
def _bounded_subject(shape: tuple[int, int, int], border: int, draw: Callable[[int], int]) -> Subject:
    """A convolutional network with a bound, in any metric, from pixels to outputs."""
    layer = ConvLBEN(
        shape[0], 1 + draw(3), shape[1:], gamma=10.0 ** (draw(5) - 2), out_features=2 + draw(2), metric=METRICS[draw(4)],
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
    return Subject(model, math.prod(shape), (1.0, 1.0, 1e-4, 1e4)[draw(4)], False)


def graph_subject(generator: torch.Generator, count: int = 60) -> tuple[GraphClassifier, SimpleNamespace]:
    """A graph classifier with random directed graphs, in float64."""
    draw = _drawing(generator)
    torch.manual_seed(draw(2**31 - 1))
    features, size, classes = 1 + draw(4), 2 * (1 + draw(3)), 2 + draw(2)
    variant = ("lipschitz", "orthogonal")[draw(2)]
    kappa = (0.5, 0.9, 1.0)[draw(3)] if variant == "lipschitz" else (0.3, 0.6, 0.9)[draw(3)]
    layers: list[nn.Module] = [
        ImplicitGraph(
            features if place == 0 else size, size, variant=variant, kappa=kappa, omega=(0.2, 0.5, 1.0)[draw(3)],
            activation=("group_sort", "relu", "tanh")[draw(3)], dtype=torch.float64,
        )
        for place in range(1 + draw(2))
    ]  # fmt: skip
    model = GraphClassifier((*layers, NodeSum(by_root=True)), nn.Linear(size, classes, dtype=torch.float64)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if draw(2):
                parameter.mul_(1.0 + 2.0 * draw(3))
    sizes = torch.randint(1, 7, (count,), generator=generator)
    first = sizes.cumsum(0) - sizes
    ends = [
        first[k] + torch.randint(0, int(sizes[k]), (2, int(sizes[k])), generator=generator)
        for k in range(count)
        if draw(4)
    ]
    nodes = int(sizes.sum())
    spread = (1.0, 1e-3, 1e3)[draw(3)]
    return model, SimpleNamespace(
        x=spread * torch.randn(nodes, features, generator=generator, dtype=torch.float64), edge_index=torch.cat(ends, 1),
        batch=torch.arange(count).repeat_interleave(sizes), num_nodes=nodes, num_graphs=count,
    )  # fmt: skip


def _drawing(generator: torch.Generator) -> Callable[[int], int]:
    """Draws numbers below its argument."""
    return lambda high: int(torch.randint(high, (1,), generator=generator))

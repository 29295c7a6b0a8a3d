"""One small network for every layer and block that `certify` knows, to be changed and judged."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.layers import SLL, Residual, Sandwich
from wellposed.layers.conv_lben import ConvLBEN
from wellposed.layers.conv_mondeq import ConvMonDEQ
from wellposed.layers.conv_nemon import ConvNEMON
from wellposed.layers.conv_orthogonal import ConvOrthogonalDEQ
from wellposed.layers.conv_pcdeq import ConvPcDEQ
from wellposed.layers.deq import DEQ
from wellposed.layers.graph import ImplicitGraph
from wellposed.layers.graph_classifier import GraphClassifier, NodeSum
from wellposed.layers.group_sort import GroupSort
from wellposed.layers.lben import LBEN
from wellposed.layers.mondeq import MonDEQ
from wellposed.layers.multi_scale_mondeq import MultiScaleMonDEQ
from wellposed.layers.nemon import NEMON
from wellposed.layers.normalize import Normalize
from wellposed.layers.orthogonal import OrthogonalDEQ
from wellposed.layers.orthogonal_conv import OrthogonalConv2d, UnitPool2d
from wellposed.layers.orthogonal_linear import OrthogonalLinear
from wellposed.layers.pcdeq import PcDEQ

_WIDE: dict[str, Any] = {"dtype": torch.float64}
_FLAT, _IMAGE, _COLOUR = (3,), (1, 4, 4), (2, 4, 4)
_NODES = 4
_EDGES = torch.tensor([[0, 1, 2, 3], [1, 2, 0, 1]], device="cpu")


@dataclass(frozen=True)
class KnownModel:
    """A network in float64, in eval mode, with two outputs, and what it takes.

    Attributes:
        name: of the layer or block that it is about.
        build: makes it, with random numbers that the name decides.
        shape: of one input; for graphs of the node features of one graph, (nodes, features).
    """

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]

    def make(self) -> nn.Module:
        """A new network, always with the same numbers, its biases and statistics away from their plain starts."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(sum(self.name.encode()))
            model = self.build()
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if name.endswith("bias"):
                        parameter.uniform_(0.1, 0.5)
                for name, buffer in model.named_buffers():
                    if name.endswith("running_mean"):
                        buffer.normal_(0.0, 0.3)
                    if name.endswith("running_var"):
                        buffer.uniform_(0.5, 2.0)
        return model.double().eval()

    def points(self, count: int, generator: torch.Generator) -> Tensor:
        """Random inputs, shape (count, *shape)."""
        return torch.randn(count, *self.shape, generator=generator, dtype=torch.float64, device="cpu")

    def data(self, points: Tensor) -> Any:
        """What the model takes: the points themselves, or a batch of graphs with these node features."""
        if not self.name.startswith("ImplicitGraph"):
            return points.clone()
        count = len(points)
        shifts = _NODES * torch.arange(count, device="cpu")
        edges = (_EDGES[:, None] + shifts[:, None]).flatten(1)
        return SimpleNamespace(
            x=points.reshape(-1, self.shape[1]).clone(), edge_index=edges,
            batch=torch.arange(count, device="cpu").repeat_interleave(_NODES),
            num_nodes=_NODES * count, num_graphs=count,
        )  # fmt: skip


def _before_head(layer: nn.Module, width: int, *rest: nn.Module) -> nn.Sequential:
    return nn.Sequential(layer, *rest, nn.Linear(width, 2, **_WIDE))


def _flat(kind: Callable[..., nn.Module], **options: Any) -> Callable[[], nn.Module]:
    """A layer of three inputs and four states before a linear head."""
    return lambda: _before_head(kind(3, 4, **options, **_WIDE), 4)


def _bounded(**options: Any) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(LBEN(3, 4, gamma=2.0, out_features=2, **options, **_WIDE))


def _image(
    kind: Callable[..., nn.Module], *between: Callable[[], nn.Module], **options: Any
) -> Callable[[], nn.Module]:
    """A layer on images of one channel, of two channels of states, before a linear head."""

    def build() -> nn.Module:
        front = [kind(1, 2, (4, 4), **options, **_WIDE), *(part() for part in between)]
        with torch.no_grad():
            value = nn.Sequential(*front).eval()(torch.zeros(1, *_IMAGE, dtype=torch.float64, device="cpu"))
        return nn.Sequential(*front, nn.Flatten(), nn.Linear(math.prod(value.shape[1:]), 2, **_WIDE))

    return build


def _on_colours(width: int, *parts: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*(part() for part in parts), nn.Flatten(), nn.Linear(width, 2, **_WIDE))


def _chain(*parts: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*(part() for part in parts))


def _graph(variant: str, activation: str, depth: int) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        layers = [
            ImplicitGraph(3 if k == 0 else 4, 4, variant=variant, kappa=0.7, activation=activation, **_WIDE)
            for k in range(depth)
        ]
        return GraphClassifier((*layers, NodeSum(by_root=True)), nn.Linear(4, 2, **_WIDE))

    return build


def _linear(inputs: int, outputs: int) -> Callable[[], nn.Module]:
    return lambda: nn.Linear(inputs, outputs, **_WIDE)


def known_models() -> tuple[KnownModel, ...]:
    """Networks for all families and blocks; every one of them can be certified."""
    flat = {
        "MonDEQ": _flat(MonDEQ, m=0.5),
        "MonDEQ tanh": _flat(MonDEQ, m=0.5, activation="tanh"),
        "LBEN": _flat(LBEN),
        "LBEN with gamma": _bounded(),
        "LBEN learning gamma": _bounded(learn_gamma=True),
        "LBEN with feedthrough": _bounded(feedthrough=True),
        "NEMON": _flat(NEMON, mu=0.5),
        "PcDEQ": _flat(PcDEQ),
        "PcDEQ sigmoid": _flat(PcDEQ, activation="sigmoid"),
        "PcDEQ sharp": _flat(PcDEQ, floor=1e-3, sharpness=3.0),
        "PcDEQ with batch norm": _flat(PcDEQ, batch_norm=True),
        "DEQ": _flat(DEQ),
        "OrthogonalDEQ": _flat(OrthogonalDEQ),
        "OrthogonalDEQ residual": _flat(OrthogonalDEQ, coupling="residual", depth=2),
        "Sandwich": _flat(Sandwich),
        "SLL": lambda: _before_head(SLL(3, 4, **_WIDE), 3),
        "Residual": lambda: _before_head(Residual(3, 4, **_WIDE), 3),
        "OrthogonalLinear": _flat(OrthogonalLinear),
        "OrthogonalLinear exponential": _flat(OrthogonalLinear, parametrisation="exponential"),
        "Linear": _chain(_linear(3, 4), nn.ReLU, _linear(4, 4), nn.Tanh, nn.Sigmoid, _linear(4, 2)),
        "BatchNorm1d": _chain(_linear(3, 4), lambda: nn.BatchNorm1d(4, **_WIDE), nn.ReLU, _linear(4, 2)),
        "GroupSort": _chain(_linear(3, 4), GroupSort, nn.Dropout, _linear(4, 2)),
        "nested": lambda: nn.Sequential(nn.Sequential(nn.Linear(3, 4, **_WIDE), nn.Hardtanh()), nn.Linear(4, 2, **_WIDE)),
    }  # fmt: skip
    images = {
        "ConvMonDEQ": _image(ConvMonDEQ, lambda: nn.AvgPool2d(2)),
        "ConvMonDEQ with border": _image(ConvMonDEQ, border=1, stride=2),
        "ConvLBEN": _image(ConvLBEN),
        "ConvLBEN with gamma": lambda: nn.Sequential(
            ConvLBEN(1, 2, (4, 4), gamma=2.0, out_features=2, pool=2, **_WIDE)
        ),
        "ConvNEMON": _image(ConvNEMON, mu=0.5),
        "ConvPcDEQ": _image(ConvPcDEQ),
        "ConvPcDEQ with batch norm": _image(ConvPcDEQ, batch_norm=True),
        "ConvOrthogonalDEQ": _image(ConvOrthogonalDEQ, lambda: UnitPool2d(2), kappa=0.8),
        "MultiScaleMonDEQ": _image(lambda inputs, _, image, **given: MultiScaleMonDEQ(inputs, (2, 2), image, **given)),
        "OrthogonalConv2d": _image(lambda *a, **k: OrthogonalConv2d(*a, stride=2, **k), lambda: GroupSort(2, -3)),
    }
    colours = {
        "Conv2d": _on_colours(12, lambda: nn.Conv2d(2, 3, 3, stride=2, padding=1, **_WIDE), nn.ReLU),
        "BatchNorm2d": _on_colours(32, lambda: nn.BatchNorm2d(2, **_WIDE), nn.ReLU),
        "AvgPool2d": _on_colours(8, lambda: nn.AvgPool2d(2)),
        "MaxPool2d": _on_colours(18, lambda: nn.MaxPool2d(2, stride=1)),
        "Normalize": _on_colours(32, lambda: Normalize((0.1, 0.3), (0.5, 2.0))),
        "Unflatten": _chain(nn.Flatten, lambda: nn.Unflatten(1, _COLOUR), nn.Identity, nn.Flatten, _linear(32, 2)),
    }
    graphs = {
        "ImplicitGraph lipschitz": _graph("lipschitz", "relu", 1),
        "ImplicitGraph orthogonal": _graph("orthogonal", "group_sort", 2),
    }
    shaped = ((flat, _FLAT), (images, _IMAGE), (colours, _COLOUR), (graphs, (_NODES, 3)))
    return tuple(KnownModel(name, build, shape) for group, shape in shaped for name, build in group.items())

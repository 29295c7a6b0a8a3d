"""Models of every kind, small, with weights that depend on their names alone.

Constructors may draw initial weights in any order: each parameter and buffer is overwritten by numbers from a generator that is
seeded by the names of the model and of the parameter. The numbers are uniform, so that no logarithm or cosine of the platform is
in them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

import wellposed as wp
from wellposed.layers.graph_classifier import NodeSum
from wellposed.models import GraphClassifier
from wellposed.models.classifier import classifier

SAMPLES = 6
GREY, COLOUR, FLAT, GRAPHS = (1, 4, 4), (3, 4, 4), (8,), ()
_DTYPES = {"float32": torch.float32, "float64": torch.float64}
_POSITIVE = ("running_var", "std")  # buffers that must be


@dataclass(frozen=True)
class Kind:
    """How a model is built.

    Attributes:
        build: the model, with any weights.
        shape: of an input; empty for graphs.
        adjust: what happens to the weights after they are drawn.
        searched: whether a lower bound is looked for.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    adjust: Callable[[nn.Module], None] | None = None
    searched: bool = False


def draws(name: str, shape: tuple[int, ...]) -> Tensor:
    """Uniform numbers of mean zero and variance one, float64, that depend on the name alone."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big")
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(shape, generator=generator, dtype=torch.float64) - 0.5) * math.sqrt(12.0)


def rotation(name: str, size: int) -> Tensor:
    """An orthogonal matrix, the product of three reflections."""
    found = torch.eye(size, dtype=torch.float64)
    for vector in draws(name, (3, size)):
        found = found - 2.0 * torch.outer(found @ vector, vector) / vector.square().sum()
    return found


@torch.no_grad()
def fill(model: nn.Module, name: str) -> None:
    """Overwrite everything that a constructor may have drawn, in place."""
    for place, tensor in [*model.named_parameters(), *model.named_buffers()]:
        last = place.rsplit(".", 1)[-1]
        if not tensor.is_floating_point():
            continue
        drawn = draws(f"{name}/{place}", tuple(tensor.shape))
        if last == "base":
            tensor.copy_(rotation(f"{name}/{place}", len(tensor)))
        elif last in _POSITIVE:
            tensor.copy_(0.8 + 0.2 * drawn)
        elif last == "mean":
            tensor.copy_(0.4 + 0.1 * drawn)
        elif tensor.ndim >= 2:
            tensor.copy_(drawn / math.sqrt(math.prod(tensor.shape[1:])))
        else:
            tensor.copy_(0.3 * drawn)


def model_of(name: str) -> nn.Module:
    """The model of a name of `NAMES`, in eval mode."""
    kind, dtype = name.rsplit("/", 1)
    model = KINDS[kind].build().to(_DTYPES[dtype])
    fill(model, kind)
    adjust = KINDS[kind].adjust
    if adjust is not None:
        with torch.no_grad():
            adjust(model)
    return model.eval()


def inputs_of(name: str) -> Tensor | Batch:
    """The inputs of a model: pixels in [0, 1], flat numbers, or graphs."""
    kind, dtype = name.rsplit("/", 1)
    shape = KINDS[kind].shape
    if shape == GRAPHS:
        return graphs(_DTYPES[dtype])
    drawn = draws(f"{kind}/inputs", (SAMPLES, *shape))
    return (0.5 + drawn / math.sqrt(12.0) if len(shape) == 3 else drawn).to(_DTYPES[dtype])


def graphs(dtype: torch.dtype) -> Batch:
    """Rings of three to eight nodes with a chord."""
    found = []
    for size in range(3, 3 + SAMPLES):
        ring = [(k, (k + 1) % size) for k in range(size)] + [(0, size // 2)]
        edges = torch.tensor(ring + [(b, a) for a, b in ring]).t().contiguous()
        found.append(Data(x=draws(f"graph/{size}", (size, 3)).to(dtype), edge_index=edges))
    return Batch.from_data_list(found)


def _grey(*body: nn.Module) -> nn.Sequential:
    """Blocks behind the normalisation of flattened grey images."""
    return classifier(body, (0.4,), (0.3,))


def _colour(*body: nn.Module) -> nn.Sequential:
    return classifier(body, (0.4, 0.5, 0.3), (0.3, 0.2, 0.4))


def _images(layer: nn.Module, *rest: nn.Module) -> nn.Sequential:
    """Blocks behind the normalisation of images of three channels."""
    return nn.Sequential(wp.Normalize((0.4, 0.5, 0.3), (0.3, 0.2, 0.4)), layer, *rest)


def _headed(layer: nn.Module, pool: int = 2) -> nn.Sequential:
    """A layer on images of three channels, averages over windows, and a linear map to three logits."""
    channels, rows, columns = layer.value_shape if isinstance(layer, wp.Equilibrium) else layer.state_shape
    size = channels * (rows // pool) * (columns // pool)
    return _images(layer, nn.AvgPool2d(pool), nn.Flatten(), nn.Linear(size, 3))


def _halved(model: nn.Module) -> None:
    """Smaller state maps of plain equilibrium models, so that a metric proves them well posed."""
    for block in model.modules():
        if isinstance(block, wp.DEQ):
            block.constraint.W.mul_(0.5)


def _graph_model(**options: object) -> GraphClassifier:
    layers = (wp.ImplicitGraph(3, 6, **options), wp.ImplicitGraph(6, 4, **options), NodeSum(by_root=True))
    return GraphClassifier(layers, nn.Sequential(wp.OrthogonalLinear(4, 4), nn.ReLU(), nn.Linear(4, 3)))


KINDS: dict[str, Kind] = {
    # Dense equilibrium layers.
    "mondeq": Kind(lambda: _grey(wp.MonDEQ(16, 10), nn.Linear(10, 4)), GREY, searched=True),
    "mondeq of forty units": Kind(lambda: _colour(wp.MonDEQ(48, 40, m=0.5), nn.Linear(40, 3)), COLOUR),
    "mondeq with tanh": Kind(lambda: _grey(wp.MonDEQ(16, 8, m=2.0, activation="tanh"), nn.Linear(8, 3)), GREY),
    "mondeq without a head": Kind(lambda: nn.Sequential(wp.MonDEQ(8, 5)), FLAT),
    "mondeq by itself": Kind(lambda: wp.MonDEQ(8, 5, bias=False), FLAT),
    "nemon": Kind(lambda: _colour(wp.NEMON(48, 10), nn.Linear(10, 4)), COLOUR, searched=True),
    "nemon of larger bound": Kind(lambda: _grey(wp.NEMON(16, 8, mu=0.5), nn.Linear(8, 3)), GREY),
    "nemon with gelu": Kind(lambda: _grey(wp.NEMON(16, 8, mu=-0.2, activation="gelu"), nn.Linear(8, 3)), GREY),
    "lben": Kind(lambda: _grey(wp.LBEN(16, 10), nn.Linear(10, 4)), GREY),
    "lben in the identity": Kind(lambda: _grey(wp.LBEN(16, 8, metric="identity"), nn.Linear(8, 3)), GREY),
    "lben with a bound": Kind(lambda: _grey(wp.LBEN(16, 10, gamma=2.0, out_features=4)), GREY),
    "lben with a learned bound": Kind(
        lambda: _colour(wp.LBEN(48, 9, gamma=2.0, out_features=4, learn_gamma=True)), COLOUR
    ),
    "lben with feedthrough": Kind(lambda: _grey(wp.LBEN(16, 10, gamma=2.0, out_features=4, feedthrough=True)), GREY),
    "lben with feedthrough in the identity": Kind(
        lambda: _grey(wp.LBEN(16, 8, gamma=3.0, out_features=3, feedthrough=True, metric="identity")), GREY
    ),
    "pcdeq": Kind(lambda: _grey(wp.PcDEQ(16, 8), nn.Linear(8, 3)), GREY),
    "pcdeq with batch norm": Kind(lambda: _colour(wp.PcDEQ(48, 8, batch_norm=True), nn.Linear(8, 3)), COLOUR),
    "pcdeq by softplus": Kind(
        lambda: _grey(
            wp.PcDEQ(16, 8, activation="softsign", parametrisation="softplus", sharpness=2.0), nn.Linear(8, 3)
        ),
        GREY,
    ),
    "pcdeq with a sigmoid": Kind(
        lambda: _grey(wp.PcDEQ(16, 8, activation="sigmoid", parametrisation="projection", floor=0.0), nn.Linear(8, 3)),
        GREY,
    ),
    "pcdeq with relu6": Kind(lambda: _grey(wp.PcDEQ(16, 6, activation="relu6", floor=0.1), nn.Linear(6, 3)), GREY),
    "orthogonal convex": Kind(lambda: _grey(wp.OrthogonalDEQ(16, 8), wp.OrthogonalLinear(8, 4)), GREY),
    "orthogonal additive": Kind(
        lambda: _grey(wp.OrthogonalDEQ(16, 8, coupling="additive", kappa=0.8, depth=2), nn.Linear(8, 3)), GREY
    ),
    "orthogonal joint": Kind(
        lambda: _grey(wp.OrthogonalDEQ(16, 8, coupling="joint", kappa=0.8, group=4), nn.Linear(8, 3)), GREY
    ),
    "orthogonal residual": Kind(lambda: _colour(wp.OrthogonalDEQ(48, 8, coupling="residual"), nn.Linear(8, 3)), COLOUR),
    "orthogonal exponential": Kind(
        lambda: _grey(
            wp.OrthogonalDEQ(16, 6, parametrisation="exponential", activation="householder"), nn.Linear(6, 3)
        ),
        GREY,
    ),
    "deq": Kind(lambda: _grey(wp.DEQ(16, 8, activation="relu"), nn.Linear(8, 3)), GREY, adjust=_halved),
    # Equilibrium layers on images.
    "conv mondeq": Kind(lambda: _headed(wp.ConvMonDEQ(3, 4, (4, 4))), COLOUR, searched=True),
    "conv mondeq with a border": Kind(
        lambda: _headed(wp.ConvMonDEQ(3, 3, (6, 6), stride=2, border=1), pool=5), (3, 6, 6)
    ),
    "conv mondeq without pooling": Kind(
        lambda: nn.Sequential(
            wp.Normalize((0.4,), (0.3,)), wp.ConvMonDEQ(1, 2, (4, 4)), nn.Flatten(), nn.Linear(32, 3)
        ),
        GREY,
    ),
    "conv nemon": Kind(lambda: _headed(wp.ConvNEMON(3, 4, (4, 4), mu=0.2)), COLOUR),
    "conv nemon of grey images": Kind(
        lambda: nn.Sequential(wp.Normalize((0.4,), (0.3,)), wp.ConvNEMON(1, 3, (4, 4)), nn.Flatten(), nn.Linear(48, 3)),
        GREY,
    ),
    "conv lben": Kind(lambda: _headed(wp.ConvLBEN(3, 3, (4, 4))), COLOUR),
    **{
        f"conv lben, metric {metric}": Kind(
            lambda metric=metric: _images(wp.ConvLBEN(3, 3, (4, 4), gamma=2.0, out_features=3, pool=2, metric=metric)),
            COLOUR,
        )
        for metric in ("full", "channels", "image", "identity")
    },
    "conv lben as published": Kind(
        lambda: _images(
            wp.ConvLBEN(3, 2, (6, 6), gamma=2.0, out_features=3, stride=2, input_in_metric=False, border=1)
        ),
        (3, 6, 6),
    ),
    "conv pcdeq": Kind(lambda: _headed(wp.ConvPcDEQ(3, 3, (4, 4))), COLOUR),
    "conv pcdeq of grey images": Kind(
        lambda: nn.Sequential(wp.Normalize((0.4,), (0.3,)), wp.ConvPcDEQ(1, 2, (4, 4)), nn.Flatten(), nn.Linear(32, 3)),
        GREY,
    ),
    "conv pcdeq with batch norm": Kind(lambda: _headed(wp.ConvPcDEQ(3, 3, (4, 4), batch_norm=True)), COLOUR),
    "conv orthogonal residual": Kind(lambda: _headed(wp.ConvOrthogonalDEQ(3, 4, (4, 4))), COLOUR),
    "conv orthogonal convex": Kind(
        lambda: _headed(wp.ConvOrthogonalDEQ(3, 4, (8, 8), coupling="convex", stride=2, kappa=0.9)), (3, 8, 8)
    ),
    "multi-scale": Kind(lambda: _headed(wp.MultiScaleMonDEQ(3, (3, 4), (4, 4)), pool=1), COLOUR),
    "multi-scale with a border": Kind(
        lambda: _headed(wp.MultiScaleMonDEQ(3, (2, 3), (8, 8), stride=2, border=1, m=0.5), pool=1), (3, 8, 8)
    ),
    # Explicit blocks.
    "linear": Kind(lambda: _grey(nn.Linear(16, 4)), GREY),
    "two linear layers": Kind(lambda: _colour(nn.Linear(48, 10), nn.Linear(10, 4)), COLOUR),
    "relu network": Kind(lambda: _grey(nn.Linear(16, 10), nn.ReLU(), nn.Linear(10, 4)), GREY, searched=True),
    "batch norm": Kind(lambda: _grey(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)), GREY),
    "sandwich": Kind(lambda: _grey(wp.Sandwich(16, 10), wp.Sandwich(10, 6), nn.Linear(6, 4)), GREY),
    "sll": Kind(lambda: _grey(wp.OrthogonalLinear(16, 10), wp.SLL(10), wp.SLL(10, 6), nn.Linear(10, 3)), GREY),
    "residual": Kind(lambda: _grey(nn.Linear(16, 8), wp.Residual(8, 6), nn.Linear(8, 3)), GREY),
    "orthogonal linear": Kind(
        lambda: _grey(
            wp.OrthogonalLinear(16, 12, parametrisation="bjorck"),
            wp.GroupSort(),
            wp.OrthogonalLinear(12, 8, parametrisation="exponential"),
            wp.GroupSort(),
            wp.OrthogonalLinear(8, 4),
        ),
        GREY,
    ),
    "convolutions": Kind(
        lambda: _images(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3)
        ),
        COLOUR,
    ),
    "orthogonal convolutions": Kind(
        lambda: _images(
            wp.OrthogonalConv2d(3, 4, (8, 8), stride=2),
            wp.GroupSort(dim=-3),
            wp.OrthogonalConv2d(4, 2, (4, 4)),
            wp.UnitPool2d(2),
            nn.Flatten(),
            wp.OrthogonalLinear(8, 3),
        ),
        (3, 8, 8),
    ),
    # Chains.
    "two equilibria": Kind(
        lambda: _grey(wp.MonDEQ(16, 10), wp.MonDEQ(10, 6, m=0.7), nn.Linear(6, 3)), GREY, searched=True
    ),
    "two equilibria in l-infinity": Kind(lambda: _grey(wp.NEMON(16, 8), wp.NEMON(8, 6, mu=0.3), nn.Linear(6, 3)), GREY),
    "bounded before monotone": Kind(
        lambda: _grey(wp.LBEN(16, 8, gamma=2.0, out_features=6), wp.MonDEQ(6, 8), nn.Linear(8, 3)), GREY
    ),
    "convolutional before dense": Kind(
        lambda: _images(wp.ConvMonDEQ(3, 2, (4, 4)), nn.AvgPool2d(2), nn.Flatten(), wp.MonDEQ(8, 6), nn.Linear(6, 3)),
        COLOUR,
    ),
    "sandwich before monotone": Kind(lambda: _grey(wp.Sandwich(16, 8), wp.MonDEQ(8, 8), nn.Linear(8, 3)), GREY),
    # Graphs.
    "ignn graphs": Kind(lambda: _graph_model(variant="ignn", kappa=0.6), GRAPHS),
    "orthogonal graphs": Kind(lambda: _graph_model(variant="orthogonal", kappa=0.6, activation="group_sort"), GRAPHS),
    "lipschitz graphs": Kind(
        lambda: _graph_model(variant="lipschitz", kappa=1.0, omega=0.4, activation="tanh"), GRAPHS
    ),
}
NAMES = tuple(f"{kind}/{dtype}" for kind in KINDS for dtype in _DTYPES)
SEARCHED = tuple(name for name in NAMES if KINDS[name.rsplit("/", 1)[0]].searched and name.endswith("float64"))

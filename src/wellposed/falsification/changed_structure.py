"""Changes of what a model is made of: chains with other links, and other modules in the place of one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.constraints.lipschitz_bounded import LipschitzBounded
from wellposed.constraints.log_norm import LogNorm
from wellposed.constraints.monotone import Monotone
from wellposed.constraints.unconstrained import Unconstrained
from wellposed.falsification.change import Apply, Change, acting, putting
from wellposed.falsification.changed_behaviour import FACTOR
from wellposed.falsification.changed_numbers import Hundredfold
from wellposed.falsification.model_parts import Part, attributes, tensors


def structure(part: Part) -> Iterator[Change]:
    """A chain with a link more, a link less, or in another order; a part that is there twice."""
    links = part.value._modules
    if not links or not all(name.isdigit() for name in links):
        return
    actions: dict[str, Callable[[Any], object]] = {
        "appended": lambda found: found.append(Hundredfold()),
        "prepended": lambda found: found.insert(0, Hundredfold()),
        "without its end": lambda found: found.pop(len(found) - 1),
        "backwards": lambda found: found.__setattr__("_modules", dict(reversed(found._modules.items()))),
        "its end twice": lambda found: found.append(found[-1]),
        "a Hardtanh appended": lambda found: found.append(nn.Hardtanh(-0.1, 0.1)),
    }
    for word, act in actions.items():
        yield Change("structure", f"{part}: {word}", acting(part, act))


class _HundredfoldIdentity(nn.Identity):
    def forward(self, input: Tensor) -> Tensor:
        return FACTOR * super().forward(input)


def swaps(part: Part) -> Iterator[Change]:
    """Another module in the place of one."""
    where: dict[str, Any] = {"dtype": torch.float64}
    makers: dict[str, Callable[[], nn.Module]] = {
        "Identity": nn.Identity,
        "GELU": nn.GELU,
        "in-place ReLU": lambda: nn.ReLU(inplace=True),
        "LeakyReLU of slope 50": lambda: nn.LeakyReLU(50.0),
        "Softmax": lambda: nn.Softmax(1),
        "LayerNorm": lambda: nn.LayerNorm(4, **where),
        "Dropout in training": nn.Dropout,
        "a subclass of Identity": _HundredfoldIdentity,
        "an empty Sequential": nn.Sequential,
        "a Bilinear": lambda: nn.Bilinear(3, 3, 4, **where),
    }
    weight = tensors(part.value).get("weight")
    if weight is not None and "in_features" in attributes(part.value):
        rows, columns = weight.shape
        makers |= {
            "another Linear": lambda: nn.Linear(columns, rows, **where),
            "a Linear without bias": lambda: nn.Linear(columns, rows, bias=False, **where),
            "a Linear of one output more": lambda: nn.Linear(columns, rows + 1, **where),
            "a Linear of one input more": lambda: nn.Linear(columns + 1, rows, **where),
            "a lazy Linear": lambda: nn.LazyLinear(rows, **where),
        }
    if part.name == "constraint":
        size = part.value.state_features
        makers |= {
            "Monotone": lambda: Monotone(size, 0.1, **where),
            "LogNorm": lambda: LogNorm(size, 0.5, **where),
            "LipschitzBounded": lambda: LipschitzBounded(size, **where),
            "Unconstrained": lambda: Unconstrained(size, **where),
            "Monotone of another size": lambda: Monotone(size + 1, 0.1, **where),
        }
    for word, make in makers.items():
        yield Change("swap", f"{part}: {word} in its place", putting(part, make))
    yield Change("swap", f"{part}: a copy with larger numbers", _put_copy(part))
    yield Change("swap", f"{part}: None", lambda model, _: part.put(model, None))


def _put_copy(part: Part) -> Apply:
    def apply(model: nn.Module, stack: ExitStack) -> None:
        other = copy.deepcopy(part.of(model))
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.mul_(10.0)
        part.put(model, other)

    return apply

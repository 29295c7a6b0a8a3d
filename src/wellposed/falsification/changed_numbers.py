"""Changes of the numbers of a module: in place or in new tensors, by parametrisations, or shared with other modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from wellposed.falsification.change import Change, acting
from wellposed.falsification.changed_behaviour import FACTOR, Loud
from wellposed.falsification.model_parts import Part, assign, is_float, tensors


class Hundredfold(nn.Module):
    """Multiplies by a hundred."""

    def forward(self, value: Tensor) -> Tensor:
        """Any shape to the same."""
        return FACTOR * value


def numbers(part: Part) -> Iterator[Change]:
    """Other numbers, in place or in new tensors, and tensors that compute something else."""
    for name, tensor in tensors(part.value).items():
        if not is_float(tensor):
            continue
        for factor in (10.0, 0.01, -1.0, 0.0, float("nan")):
            yield Change(
                "numbers", f"{part}: {name} times {factor:g}",
                acting(part, partial(_multiply, name, factor)),
            )  # fmt: skip
        makers: dict[str, Callable[[Tensor], Any]] = {
            "a new parameter, ten times as large": lambda old: nn.Parameter(10.0 * old),
            "a plain tensor, ten times as large": lambda old: 10.0 * old,
            "transposed": lambda old: nn.Parameter(old.t().clone()),
            "of one row more": lambda old: nn.Parameter(torch.cat([old, old[:1]])),
            "in float32": lambda old: nn.Parameter(old.float()),
            "frozen": lambda old: nn.Parameter(old, requires_grad=False),
            "a loud tensor": lambda old: nn.Parameter(old.as_subclass(Loud)),
            "None": lambda old: None,
        }
        for word, make in makers.items():
            kind = "tensor" if "loud" in word else "numbers"
            yield Change(kind, f"{part}: {name} {word}", acting(part, partial(_renew, name, make)))


def _multiply(name: str, factor: float, found: Any) -> None:
    getattr(found, name).data.mul_(factor)


def _renew(name: str, make: Callable[[Tensor], Any], found: Any) -> None:
    assign(found, name, make(getattr(found, name).detach().clone()))


def parametrised(part: Part) -> Iterator[Change]:
    """Weights by parametrisations of torch, and by one that torch does not know."""
    known: dict[str, Callable[[nn.Module, str], object]] = {
        "orthogonal": parametrizations.orthogonal,
        "spectral_norm": parametrizations.spectral_norm,
        "weight_norm": parametrizations.weight_norm,
        "old weight_norm": nn.utils.weight_norm,
        "old spectral_norm": nn.utils.spectral_norm,
    }
    for name, tensor in tensors(part.value).items():
        if not is_float(tensor):
            continue
        chosen: dict[str, Callable[[nn.Module, str], object]] = dict(known) if tensor.ndim > 1 else {}
        chosen["their own"] = lambda module, name: parametrize.register_parametrization(module, name, Hundredfold())
        for word, how in chosen.items():

            def act(found: nn.Module, how: Any = how, name: str = name) -> None:
                with torch.enable_grad():
                    how(found, name)

            yield Change("parametrised", f"{part}: {name} parametrised by {word}", acting(part, act))


def tied(model: nn.Module, part: Part) -> Iterator[Change]:
    """Another module's parameter in the place of one of the same shape."""
    for name, tensor in part.value._parameters.items():
        for other, candidate in model.named_parameters():
            if tensor is None or candidate is tensor or candidate.shape != tensor.shape:
                continue

            def apply(copied: nn.Module, stack: ExitStack, name: str = name, other: str = other) -> None:
                assign(part.of(copied), name, copied.get_parameter(other))

            yield Change("tied", f"{part}: {name} is {other}", apply)

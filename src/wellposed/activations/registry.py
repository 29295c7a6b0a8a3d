"""The list of activations: by name, and by what of torch they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from wellposed.activations.base import Activation
from wellposed.activations.knowledge import TorchForm
from wellposed.activations.piecewise import Clamp, Identity, LeakyReLU, ReLU
from wellposed.activations.smooth import SMOOTH
from wellposed.errors import choices

_REGISTRY: dict[str, Activation] = {
    "relu": ReLU(),
    "leaky_relu": LeakyReLU(),
    "hardtanh": Clamp(),
    "relu6": Clamp(0.0, 6.0),
    "identity": Identity(),
    **SMOOTH,
}


def activation(which: str | Activation) -> Activation:
    """Look up an activation by name, or pass one through.

    Raises:
        InputError: no activation has that name.
    """
    if isinstance(which, Activation):
        return which
    choices("activation", which, names())
    return _REGISTRY[which]


def names() -> tuple[str, ...]:
    """Names of all activations."""
    return tuple(_REGISTRY)


def monotone_names() -> tuple[str, ...]:
    """Names of the activations whose slopes lie in [0, 1]."""
    return tuple(name for name, entry in _REGISTRY.items() if entry.is_monotone)


def concave_names() -> tuple[str, ...]:
    """Names of the activations that are nonnegative and concave on the positive axis."""
    return tuple(name for name, entry in _REGISTRY.items() if entry.concavity is not None)


def name_of(sigma: Activation) -> str | None:
    """The name of an activation of the list; None for others."""
    return next((name for name, entry in _REGISTRY.items() if entry == sigma), None)


def torch_forms() -> Iterator[TorchForm]:
    """What of torch computes an activation of any class that inherits from `Activation`."""
    return iter(dict.fromkeys(form for kind in _kinds(Activation) for form in kind.torch_forms))


def _kinds(kind: Any) -> Iterator[type[Activation]]:
    for inherited in kind.__subclasses__():
        yield inherited
        yield from _kinds(inherited)


def torch_modules() -> tuple[type[nn.Module], ...]:
    """Classes of torch's modules that compute a known activation."""
    return tuple(dict.fromkeys(module for form in torch_forms() for module in form.modules))


def of_module(module: nn.Module) -> Activation | None:
    """The activation that a module computes; None for a module of a class that is not known for one.

    Raises:
        InputError: nothing is known for the values of its options.
    """
    return next((form.of(module) for form in torch_forms() if type(module) in form.modules), None)

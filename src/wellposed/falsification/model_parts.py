"""Every part of a model: modules, parameters, buffers, plain attributes, and the objects that they hold."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_INTERNAL = (frozenset(vars(nn.Module())) - {"training"}) | {"compiled_handle"}  # a number that differs for every copy
_LIBRARIES = ("wellposed", "torch")


@dataclass(frozen=True)
class Part:
    """A part, by the way to it: the same way leads to the same part of a copy.

    Attributes:
        path: names from the model down; empty for the model itself.
        value: what is there.
    """

    path: tuple[str, ...]
    value: Any

    def __str__(self) -> str:
        return ".".join(self.path) or "model"

    @property
    def name(self) -> str:
        """What its holder calls it; empty for the model itself."""
        return self.path[-1] if self.path else ""

    def of(self, model: nn.Module) -> Any:
        """This part of a copy of the model."""
        found: Any = model
        for name in self.path:
            found = child(found, name)
        return found

    def holder(self, model: nn.Module) -> Any:
        """What holds this part in a copy of the model."""
        return Part(self.path[:-1], None).of(model)

    def put(self, model: nn.Module, value: Any) -> None:
        """Something else in the place of this part of a copy of the model."""
        assign(self.holder(model), self.name, value)

    def own(self, model: nn.Module) -> Any:
        """This part of a copy of the model, an object that is not shared with other models: objects by name are."""
        found = self.of(model)
        if isinstance(found, nn.Module):
            return found
        alone = object.__new__(type(found))
        vars(alone).update(vars(found))
        self.put(model, alone)
        return alone


def child(owner: Any, name: str) -> Any:
    """What an owner holds under a name; the children of containers have numbers for names."""
    if isinstance(owner, nn.Module) and name in owner._modules:
        return owner._modules[name]
    return getattr(owner, name)


def assign(owner: Any, name: str, value: Any) -> None:
    """Put a value into an owner, also where that is frozen, and where a parameter was under the name."""
    if not isinstance(owner, nn.Module):
        object.__setattr__(owner, name, value)
        return
    if name in owner._modules and isinstance(value, nn.Module):
        owner._modules[name] = value
        return
    for store in (owner._parameters, owner._buffers, owner._modules):
        if name in store:
            del store[name]
    setattr(owner, name, value)


def is_object(value: Any) -> bool:
    """Whether a value is an object of the library with attributes, such as an activation, a solver or a tolerance."""
    kind = type(value)
    return kind.__module__.split(".")[0] == "wellposed" and hasattr(value, "__dict__") and not isinstance(value, type)


def attributes(owner: Any) -> dict[str, Any]:
    """The plain attributes of an owner, without parts that are modules, parameters or buffers."""
    internal = _INTERNAL if isinstance(owner, nn.Module) else frozenset()
    return {name: value for name, value in vars(owner).items() if name not in internal}


def tensors(owner: Any) -> dict[str, Tensor]:
    """The parameters and buffers that a module holds itself."""
    if not isinstance(owner, nn.Module):
        return {}
    held = {**owner._parameters, **owner._buffers}
    return {name: value for name, value in held.items() if value is not None}


def parts(model: nn.Module) -> Iterator[Part]:
    """The modules and objects of a model, itself first; an object that is held twice comes twice."""
    yield from _below(Part((), model))


def _below(part: Part) -> Iterator[Part]:
    yield part
    owner = part.value
    held = dict(owner._modules) if isinstance(owner, nn.Module) else {}
    held.update({name: value for name, value in attributes(owner).items() if is_object(value)})
    for name, value in held.items():
        if value is not None:
            yield from _below(Part((*part.path, name), value))


def methods(kind: type) -> dict[str, type]:
    """The methods that a class of the library or of torch computes with, each with the class that has it."""
    found: dict[str, type] = {}
    for owner in kind.__mro__:
        if owner in (nn.Module, object) or owner.__module__.split(".")[0] not in _LIBRARIES:
            continue
        for name, member in vars(owner).items():
            if inspect.isfunction(member) and _computes(name):
                found.setdefault(name, owner)
    return found


def properties(kind: type) -> list[str]:
    """Names of the properties that a class of the library or of torch computes."""
    inherited = (
        owner for owner in kind.__mro__ if owner.__module__.split(".")[0] in _LIBRARIES and owner is not nn.Module
    )
    members = (entry for owner in inherited for entry in vars(owner).items())
    return sorted({name for name, member in members if inspect.isdatadescriptor(member) and not name.startswith("__")})


# What shows, saves, trains or assembles a module, and computes nothing.
_ASIDE = (
    "extra_repr", "reset_parameters", "get_extra_state", "set_extra_state", "project", "rebase", "require_monotone",
    "append", "extend", "insert", "pop", "reset_running_stats",
)  # fmt: skip


def _computes(name: str) -> bool:
    return name == "__call__" or not (name.startswith("__") or name in _ASIDE)


def is_float(value: Any) -> bool:
    """Whether a value is a tensor of floating-point numbers."""
    return isinstance(value, Tensor) and torch.is_floating_point(value)

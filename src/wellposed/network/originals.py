"""What classes define, as it was when they were first seen; and whether it still is."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from typing import Any

from torch import nn

from wellposed.errors import CertificateError

# What torch itself keeps in a module beside its class's attributes.
BOOKKEEPING = frozenset(vars(nn.Module())) | {"_is_full_backward_hook", "_is_hf_initialized", "__overloads__"}
_MAKERS = (None, "typing", "typing_extensions", "enum", "dataclasses")  # modules that write methods into classes
_methods: dict[type, dict[str, Any]] = {}


def require_unchanged(where: str, item: Any) -> None:
    """Refuse objects and classes whose classes were changed after they were defined, or that have attributes in their place.

    Args:
        where: its path, for errors.
        item: the object, or a class.

    Raises:
        CertificateError: with the name of what was replaced.
    """
    kinds = item.__mro__ if inspect.isclass(item) else type(item).__mro__
    for kind in kinds:
        if kind is object:
            continue
        before = remember(kind)
        for name in before.keys() | _functions(kind).keys():
            now = vars(kind).get(name)
            if now is not before.get(name) and not (kind is nn.Module and _only_counts(now, before.get(name))):
                raise CertificateError(
                    f"{where}: {kind.__name__}.{name} was replaced; certified is what the class was written to do"
                )
    if inspect.isclass(item) or not hasattr(item, "__dict__"):
        return
    fields = {field.name for field in dataclasses.fields(item)} if dataclasses.is_dataclass(item) else set()
    for name in vars(item).keys() - fields - BOOKKEEPING:
        owner = next((kind for kind in kinds if name in vars(kind)), None)
        registered = type(item).__module__.partition(".")[0] not in ("wellposed", "torch")
        if owner is not None and not (registered and name not in remember(owner)):  # their authors vouch for their data
            raise CertificateError(
                f"{where}.{name}: replaces what {owner.__name__} says, by {vars(item)[name]!r:.60}; delete this attribute"
            )


def _only_counts(now: Any, before: Any) -> bool:
    """Whether ``nn.Module.__init__`` is what ``torch.compile`` puts in its place: it notes how old a module is, and calls it."""
    guard = sys.modules.get("torch._dynamo.mutation_guard")
    if guard is None or not inspect.isfunction(now) or not inspect.isfunction(before):
        return False
    inside = guard.install_generation_tagging_init.__code__.co_consts
    return now.__code__ in inside and before in [cell.cell_contents for cell in now.__closure__ or ()]


def _functions(kind: type) -> dict[str, Any]:
    """Methods, properties and the like that a class defines itself."""
    wanted = (property, staticmethod, classmethod)
    return {name: value for name, value in vars(kind).items() if inspect.isfunction(value) or isinstance(value, wanted)}


def remember(kind: type) -> dict[str, Any]:
    """What a class defines itself, as it was when it was first seen.

    Classes of torch and of this library may have been changed before that: what was not written for them does not count.
    """
    if kind not in _methods:
        _methods[kind] = {name: value for name, value in _functions(kind).items() if _is_own(kind, value)}
    return _methods[kind]


def _is_own(kind: type, value: Any) -> bool:
    """Whether a method or property can have been written in its class; users' own classes are what they say they are."""
    package = kind.__module__.partition(".")[0]
    if package not in ("torch", "wellposed"):
        return True
    parts = [value.fget, value.fset, value.fdel] if isinstance(value, property) else [getattr(value, "__func__", value)]
    return all(_belongs(part, kind, package) for part in parts if part is not None)


def _belongs(function: Any, kind: type, package: str) -> bool:
    origin, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    if origin is None and inspect.isfunction(function):  # of code without a module, or of a decorator's
        origin = str(function.__globals__.get("__name__"))
    if origin in _MAKERS:
        return True
    owner = name.rpartition(".")[0]
    return origin.partition(".")[0] == package and (not owner or "<locals>" in owner or owner == kind.__qualname__)

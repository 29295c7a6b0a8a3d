"""Changes of what a part computes: methods of the instance or of its class, subclasses, hooks."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_modules

from wellposed.falsification.change import Apply, Change
from wellposed.falsification.model_parts import Part, attributes, is_float, methods, properties, tensors
from wellposed.operators import Operator

FACTOR = 100.0
_CALLS = ("_call_impl", "_wrapped_call_impl", "_compiled_call_impl")  # what calling a module goes through in torch


def larger(value: Any) -> Any:
    """A value a hundred times as large, a map half as large, or another truth: whatever a faulty part might return."""
    if is_float(value):
        return FACTOR * value
    if isinstance(value, bool):
        return not value
    if isinstance(value, float):
        return FACTOR * value
    if isinstance(value, Operator):
        return value.rebuild(tuple(0.5 * tensor for tensor in value.tensors))
    if isinstance(value, tuple):
        return tuple(larger(part) for part in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and hasattr(value, "value"):
        return dataclasses.replace(value, value=larger(value.value))
    return value


def behaviour(part: Part) -> Iterator[Change]:
    """The changes of what a part computes."""
    kind = type(part.value)
    for name, owner in methods(kind).items():
        yield Change("instance", f"{part}: {name} of the instance", _on_instance(part, name))
        yield Change("class", f"{part}: {name} of {owner.__name__}", _on_class(owner, name))
        yield Change("subclass", f"{part}: {name} of a subclass", _subclass(part, {name: _overriding(name)}))
    yield Change("subclass", f"{part}: a subclass without anything new", _subclass(part, {}))
    for name in (*properties(kind), *attributes(part.value), *tensors(part.value)):
        yield Change(
            "subclass", f"{part}: {name} by a property of a subclass", _subclass(part, {name: _property(name)})
        )
    if isinstance(part.value, nn.Module):
        for name in _CALLS:
            yield Change("instance", f"{part}: {name} of the instance", _on_instance(part, name))
        yield from _hooks(part)


def _scaled(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *given, **named: larger(function(*given, **named))


def _on_instance(part: Part, name: str) -> Apply:
    def apply(model: nn.Module, stack: ExitStack) -> None:
        found = part.own(model)
        before = getattr(found, name) or found.forward  # a compiled call is None until there is one
        object.__setattr__(found, name, _scaled(before))

    return apply


def _on_class(owner: type, name: str) -> Apply:
    def apply(model: nn.Module, stack: ExitStack) -> None:
        before = vars(owner)[name]
        stack.callback(setattr, owner, name, before)
        setattr(owner, name, _scaled(before))

    return apply


def _overriding(name: str) -> Callable[[type], Any]:
    return lambda kind: _scaled(getattr(kind, name))


def _property(name: str) -> Callable[[type], Any]:
    """A property that hides what the instance or its class has under the name."""

    def make(kind: type) -> Any:
        inherited: Any = getattr(kind, name, None)

        described = inspect.isdatadescriptor(inherited)

        def read(self: Any) -> Any:
            if described:
                return larger(inherited.__get__(self))
            if name in vars(self):
                return larger(vars(self)[name])
            held = vars(self).get("_parameters", {}).get(name)
            return larger(vars(self).get("_buffers", {}).get(name) if held is None else held)

        return property(read, lambda self, value: vars(self).__setitem__(name, value))

    return make


def _subclass(part: Part, members: dict[str, Callable[[type], Any]]) -> Apply:
    def apply(model: nn.Module, stack: ExitStack) -> None:
        found = part.own(model)
        kind = type(found)
        body = {name: make(kind) for name, make in members.items()}
        object.__setattr__(found, "__class__", type(f"Changed{kind.__name__}", (kind,), body))

    return apply


def _hooks(part: Part) -> Iterator[Change]:
    """Hooks of one module, or of all modules that act on one class only."""

    def after(module: nn.Module, given: tuple[Any, ...], output: Any) -> Any:
        return larger(output)

    def before(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(larger(value) for value in given)

    def backward(module: nn.Module, given: Any, output: Any) -> None:
        return None

    register: dict[str, Callable[..., Any]] = {
        "register_forward_hook": after,
        "register_forward_pre_hook": before,
        "register_full_backward_hook": backward,
    }
    for name, hook in register.items():
        yield Change("hook", f"{part}: {name}", _registering(part, name, hook))
    kind = type(part.value)
    everywhere: dict[str, tuple[Any, Any]] = {
        "forward hook": (torch_modules.register_module_forward_hook, after),
        "forward pre-hook": (torch_modules.register_module_forward_pre_hook, before),
    }
    for name, (registering, hook) in everywhere.items():

        def apply(model: nn.Module, stack: ExitStack, registering: Any = registering, hook: Any = hook) -> None:
            def selective(module: nn.Module, *given: Any) -> Any:
                return hook(module, *given) if type(module) is kind else None

            stack.callback(registering(selective).remove)

        yield Change("global hook", f"{part}: a global {name}", apply)


def _registering(part: Part, name: str, hook: Callable[..., Any]) -> Apply:
    return lambda model, _: getattr(part.of(model), name)(hook)


class Loud(torch.Tensor):
    """A tensor whose linear maps and convolutions are a hundred times as large."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(func, types, args, kwargs or {})
        if func in (nn.functional.linear, nn.functional.conv2d, torch.matmul, torch.mm):
            return FACTOR * result.as_subclass(Tensor)
        return result

"""Changes of what a part is made of: options, activations, modes, precisions, and the way to the equilibrium."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.activations import Activation, Clamp, LeakyReLU, Smooth, activation, monotone_names
from wellposed.falsification.change import Change, acting, putting, setting
from wellposed.falsification.changed_behaviour import FACTOR, larger
from wellposed.falsification.changed_numbers import numbers, parametrised, tied
from wellposed.falsification.changed_structure import structure, swaps
from wellposed.falsification.model_parts import Part, attributes, is_float, is_object
from wellposed.implicit import Exact, JacobianFree, Phantom, Unrolled
from wellposed.solvers import (
    Adaptive,
    Anderson,
    Averaged,
    Broyden,
    DouglasRachford,
    ForwardBackward,
    Newton,
    NewtonKrylov,
    PeacemanRachford,
    Picard,
)

OF_THE_SOLVE = ("solver", "gradient", "tolerance", "max_steps", "on_failure", "rtol", "atol")
_ACTIVATIONS = ("activation", "_activation", "rest")  # names under which parts hold them
_WORDS = (
    "zeros", "circular", "reflect", "replicate", "convex", "residual", "lipschitz", "orthogonal", "ignn", "cayley",
    "exponential", "bjorck", "diagonal", "identity", "channels", "square", "same", "valid", "warn", "raise",
)  # fmt: skip
_WAYS: dict[str, tuple[Callable[[], Any], ...]] = {
    "solver": (
        Adaptive, Anderson, Averaged, Broyden, DouglasRachford, ForwardBackward, Newton, NewtonKrylov, PeacemanRachford, Picard,
    ),
    "gradient": (Exact, JacobianFree, Phantom, Unrolled),
}  # fmt: skip


def values(model: nn.Module, part: Part) -> Iterator[Change]:
    """The changes of what a part of a model is made of."""
    held = attributes(part.value)
    for name, value in held.items():
        kind = "solve" if name in OF_THE_SOLVE else "option"
        others = {_short(other): other for other in ((1e-3, 1e-6) if name in ("rtol", "atol") else _others(value))}
        for word in sorted(others.keys() - {_short(value)}):
            yield Change(kind, f"{part}: {name} = {word}", setting(part, name, others[word]))
    if part.name in _ACTIVATIONS:
        yield from _activations(part)
    if not isinstance(part.value, nn.Module):
        return
    yield from _modes(part)
    yield from numbers(part)
    yield from parametrised(part)
    yield from tied(model, part)
    yield from structure(part)
    if part.path:
        yield from swaps(part)
    for name, makers in _WAYS.items():
        for maker in makers if name in held else ():
            yield Change("solve", f"{part}: {name} {_short(maker)}", setting(part, name, maker()))


def _others(value: Any) -> list[Any]:
    """What else might stand in the place of a plain value."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1, 2 * value + 2, 0, -1]
    if isinstance(value, float):
        return [2.0 * value + 0.1, 0.5 * value, -value - 0.1, 0.0, float("nan")]
    if isinstance(value, str):
        return [word for word in _WORDS if word != value]
    if isinstance(value, tuple) and all(isinstance(part, int | float) for part in value):
        return [tuple(part + 1 for part in value), value[::-1], tuple(2 * part for part in value), value[:1]]
    if value is None:
        return [2, 1e-3, torch.ones(4, dtype=torch.float64, device="cpu"), nn.Linear(4, 4, dtype=torch.float64)]
    if callable(value) and not is_object(value):

        def steep(*given: Any, **named: Any) -> Any:
            return larger(value(*given, **named))

        return [steep, torch.abs, torch.nn.functional.gelu]
    if is_float(value):
        return [FACTOR * value, 0.01 * value]
    return []


def _short(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}, {float(value.detach().abs().max()):.3g}"
    return getattr(value, "__name__", None) or repr(value)


def _activations(part: Part) -> Iterator[Change]:
    others: list[Activation] = [activation(name) for name in (*monotone_names(), "gelu", "silu")]
    steep = Smooth("relu", lambda v: FACTOR * torch.relu(v), lambda v: FACTOR * (v > 0).to(v.dtype))
    for other in (*others, Clamp(-3.0, 3.0), LeakyReLU(0.5), steep):
        if other is not part.value:
            name = f"{part}: activation {other!r}" + (" a hundred times as steep" if other is steep else "")
            yield Change("swap", name, putting(part, partial(_same, other)))


def _same(value: Any) -> Any:
    return value


def _modes(part: Part) -> Iterator[Change]:
    yield Change("mode", f"{part}: train()", acting(part, lambda found: found.train()))
    yield Change("mode", f"{part}: eval()", acting(part, lambda found: found.eval()))
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        yield Change("dtype", f"{part}: {dtype}", acting(part, partial(_cast, dtype=dtype)))


def _cast(found: nn.Module, dtype: torch.dtype) -> None:
    found.to(dtype)

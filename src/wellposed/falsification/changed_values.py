"""Changes of what a part is made of: other numbers, options, modes, precisions, parametrisations, other parts in its place."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from wellposed.activations import Activation, Clamp, LeakyReLU, Smooth, activation, monotone_names
from wellposed.constraints.base import Constraint
from wellposed.constraints.lipschitz_bounded import LipschitzBounded
from wellposed.constraints.log_norm import LogNorm
from wellposed.constraints.monotone import Monotone
from wellposed.constraints.unconstrained import Unconstrained
from wellposed.falsification.change import Apply, Change
from wellposed.falsification.changed_behaviour import FACTOR, Loud, larger
from wellposed.falsification.model_parts import Part, assign, attributes, is_float, is_object, tensors
from wellposed.implicit import Exact, JacobianFree, Phantom, Unrolled
from wellposed.layers.options import SolvingModule
from wellposed.solvers import (
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
_WORDS = (
    "zeros", "circular", "reflect", "replicate", "convex", "residual", "lipschitz", "orthogonal", "ignn", "cayley",
    "exponential", "bjorck", "diagonal", "identity", "channels", "square", "same", "valid", "warn", "raise",
)  # fmt: skip
_SOLVERS = (
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
_GRADIENTS = (Exact, JacobianFree, Phantom, Unrolled)


def values(model: nn.Module, part: Part) -> Iterator[Change]:
    """The changes of what a part of a model is made of."""
    for name, value in attributes(part.value).items():
        kind = "solve" if name in OF_THE_SOLVE else "option"
        others = {_short(other): other for other in ((1e-3, 1e-6) if name in ("rtol", "atol") else _others(value))}
        for word in sorted(others.keys() - {_short(value)}):
            yield Change(kind, f"{part}: {name} = {word}", _attribute(part, name, others[word]))
    if part.path and isinstance(part.value, Activation):
        yield from _activations(part)
    if not isinstance(part.value, nn.Module):
        return
    yield from _modes(part)
    yield from _numbers(part)
    yield from _parametrised(part)
    yield from _tied(model, part)
    yield from _structure(part)
    if part.path:
        yield from _swaps(part)
    if isinstance(part.value, SolvingModule):
        for maker in _SOLVERS:
            yield Change("solve", f"{part}: solver {maker.__name__}", _attribute(part, "solver", maker()))
        for made in _GRADIENTS:
            yield Change("solve", f"{part}: gradient {made.__name__}", _attribute(part, "gradient", made()))


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
        return [2, 1e-3, torch.ones(4, dtype=torch.float64), nn.Linear(4, 4, dtype=torch.float64)]
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


def _attribute(part: Part, name: str, value: Any) -> Apply:
    def apply(model: nn.Module, stack: ExitStack) -> None:
        assign(part.own(model), name, value)

    return apply


def _acting(part: Part, act: Callable[[Any], object]) -> Apply:
    """An action on the part in the copy."""

    def apply(model: nn.Module, stack: ExitStack) -> None:
        with torch.no_grad():
            act(part.of(model))

    return apply


def _activations(part: Part) -> Iterator[Change]:
    others = [activation(name) for name in (*monotone_names(), "gelu", "silu")]
    steep = Smooth("relu", lambda v: FACTOR * torch.relu(v), lambda v: FACTOR * (v > 0).to(v.dtype))
    for other in (*others, Clamp(-3.0, 3.0), LeakyReLU(0.5), steep):
        if other is not part.value:
            name = f"{part}: activation {other!r}" + (" a hundred times as steep" if other is steep else "")
            yield Change("swap", name, _put(part, partial(_same, other)))


def _modes(part: Part) -> Iterator[Change]:
    yield Change("mode", f"{part}: train()", _acting(part, lambda found: found.train()))
    yield Change("mode", f"{part}: eval()", _acting(part, lambda found: found.eval()))
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        yield Change("dtype", f"{part}: {dtype}", _acting(part, partial(_cast, dtype=dtype)))


def _numbers(part: Part) -> Iterator[Change]:
    """Other numbers, in place or in new tensors, and tensors that compute something else."""
    for name, tensor in tensors(part.value).items():
        if not is_float(tensor):
            continue
        for factor in (10.0, 0.01, -1.0, 0.0, float("nan")):
            yield Change(
                "numbers", f"{part}: {name} times {factor:g}",
                _acting(part, partial(_multiply, name, factor)),
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
            yield Change(kind, f"{part}: {name} {word}", _acting(part, partial(_renew, name, make)))


def _multiply(name: str, factor: float, found: Any) -> None:
    getattr(found, name).data.mul_(factor)


def _renew(name: str, make: Callable[[Tensor], Any], found: Any) -> None:
    assign(found, name, make(getattr(found, name).detach().clone()))


def _cast(found: nn.Module, dtype: torch.dtype) -> None:
    found.to(dtype)


def _same(value: Any) -> Any:
    return value


class _Hundredfold(nn.Module):
    def forward(self, value: Tensor) -> Tensor:
        return FACTOR * value


def _parametrised(part: Part) -> Iterator[Change]:
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
        chosen["their own"] = lambda module, name: parametrize.register_parametrization(module, name, _Hundredfold())
        for word, how in chosen.items():

            def act(found: nn.Module, how: Any = how, name: str = name) -> None:
                with torch.enable_grad():
                    how(found, name)

            yield Change("parametrised", f"{part}: {name} parametrised by {word}", _acting(part, act))


def _tied(model: nn.Module, part: Part) -> Iterator[Change]:
    """Another module's parameter in the place of one of the same shape."""
    for name, tensor in part.value._parameters.items():
        for other, candidate in model.named_parameters():
            if tensor is None or candidate is tensor or candidate.shape != tensor.shape:
                continue

            def apply(copied: nn.Module, stack: ExitStack, name: str = name, other: str = other) -> None:
                assign(part.of(copied), name, copied.get_parameter(other))

            yield Change("tied", f"{part}: {name} is {other}", apply)


def _structure(part: Part) -> Iterator[Change]:
    """A chain with a link more, a link less, or in another order; a part that is there twice."""
    if not isinstance(part.value, nn.Sequential | nn.ModuleList):
        return
    actions: dict[str, Callable[[Any], object]] = {
        "appended": lambda found: found.append(_Hundredfold()),
        "prepended": lambda found: found.insert(0, _Hundredfold()),
        "without its end": lambda found: found.pop(len(found) - 1),
        "backwards": lambda found: found.__setattr__("_modules", dict(reversed(found._modules.items()))),
        "its end twice": lambda found: found.append(found[-1]),
        "a Hardtanh appended": lambda found: found.append(nn.Hardtanh(-0.1, 0.1)),
    }
    for word, act in actions.items():
        yield Change("structure", f"{part}: {word}", _acting(part, act))


class _HundredfoldIdentity(nn.Identity):
    def forward(self, input: Tensor) -> Tensor:
        return FACTOR * super().forward(input)


def _swaps(part: Part) -> Iterator[Change]:
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
    value = part.value
    if isinstance(value, nn.Linear):
        rows, columns = value.weight.shape
        makers |= {
            "another Linear": lambda: nn.Linear(columns, rows, **where),
            "a Linear without bias": lambda: nn.Linear(columns, rows, bias=False, **where),
            "a Linear of one output more": lambda: nn.Linear(columns, rows + 1, **where),
            "a Linear of one input more": lambda: nn.Linear(columns + 1, rows, **where),
            "a lazy Linear": lambda: nn.LazyLinear(rows, **where),
        }
    if isinstance(value, Constraint):
        size = value.state_features
        makers |= {
            "Monotone": lambda: Monotone(size, 0.1, **where),
            "LogNorm": lambda: LogNorm(size, 0.5, **where),
            "LipschitzBounded": lambda: LipschitzBounded(size, **where),
            "Unconstrained": lambda: Unconstrained(size, **where),
            "Monotone of another size": lambda: Monotone(size + 1, 0.1, **where),
        }
    for word, make in makers.items():
        yield Change("swap", f"{part}: {word} in its place", _put(part, make))
    yield Change("swap", f"{part}: a copy with larger numbers", _put_copy(part))
    yield Change("swap", f"{part}: None", lambda model, _: part.put(model, None))


def _put(part: Part, make: Callable[[], Any]) -> Apply:
    def apply(model: nn.Module, stack: ExitStack) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            part.put(model, make())

    return apply


def _put_copy(part: Part) -> Apply:
    def apply(model: nn.Module, stack: ExitStack) -> None:
        other = copy.deepcopy(part.of(model))
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.mul_(10.0)
        part.put(model, other)

    return apply

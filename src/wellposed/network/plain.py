"""Whether everything in a model is called, found and computed as torch and this library do it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_modules
from torch.nn.utils.parametrize import is_parametrized

from wellposed.activations import Activation
from wellposed.errors import CertificateError
from wellposed.guarantee import Guarantee
from wellposed.implicit.equation import Equation
from wellposed.network.known import CONTAINERS, require_registry, require_stored
from wellposed.network.originals import remember, require_unchanged
from wellposed.operators.base import Transform
from wellposed.solvers.base import Iteration
from wellposed.solvers.problem import Problem


def require_plain_calls(root: nn.Module) -> None:
    """Refuse hooks anywhere in a model, calls of modules that torch does not make, and functions of torch that were replaced.

    Raises:
        CertificateError: with the path of the module.
    """
    if torch_modules._global_forward_hooks or torch_modules._global_forward_pre_hooks:
        raise CertificateError(
            "model: there are forward hooks for all modules, with unknown effects; remove them first"
        )
    for name, owner, before in _FUNCTIONS:
        if getattr(owner, name) is not before:
            raise CertificateError(
                f"{owner.__name__}.{name}: was replaced by {getattr(owner, name)!r}; restore it first"
            )
    for kind in _LIBRARY:
        require_unchanged(f"{kind.__module__}.{kind.__name__}", kind)
    for path, module in root.named_modules():
        _require_plain_call(path or "model", module)
    for name, tensor in (*root.named_parameters(), *root.named_buffers()):
        require_stored(name, tensor)


def _require_plain_call(where: str, module: nn.Module) -> None:
    """Refuse one module that is not called as torch calls modules, or whose forward is found in another way."""
    kind = type(module)
    if isinstance(module, torch.jit.ScriptModule):
        raise CertificateError(f"{where}: is a compiled script; certify the module that it was made from")
    if module._forward_hooks or module._forward_pre_hooks:
        raise CertificateError(f"{where}: it has forward hooks, with unknown effects; remove them first")
    if module._compiled_call_impl is not None or "_call_impl" in vars(module) or "__call__" in vars(module):
        raise CertificateError(f"{where}: its call was replaced or compiled; certify the module as it was written")
    for name, value in vars(module).items():
        if isinstance(value, Activation):  # a copy of one would be the known one of its name
            require_registry(f"{where}.{name}", value)
    if kind in CONTAINERS:
        require_unchanged(where, module)
        return
    names = ["__call__", "_call_impl", "_wrapped_call_impl", "__getattr__", "__getattribute__", "__delattr__"]
    if not is_parametrized(module):
        names.append("__deepcopy__")
    for name in names:
        if getattr(kind, name, None) is not getattr(nn.Module, name, None):
            raise CertificateError(
                f"{where}: {kind.__name__} replaces the call of torch.nn.Module, by {name}, with unknown effects"
            )
    if not inspect.isfunction(inspect.getattr_static(kind, "forward")):
        raise CertificateError(f"{where}: the forward of {kind.__name__} is no plain method; what it does is not known")


def _found(owner: Any, names: Iterable[str]) -> list[tuple[str, Any, Any]]:
    return [(name, owner, getattr(owner, name)) for name in names if hasattr(owner, name)]


_NAMED = """
    relu tanh sigmoid clamp clip atan arctan asinh arcsinh add sub mul div neg matmul mm reshape flatten conv2d dropout batch_norm
    max_pool2d logaddexp minimum maximum addmm baddbmm bmm where abs cat sort exp log1p expm1 rsqrt sqrt sin cos
""".split()  # noqa: SIM905
_OPERATORS = "add radd sub rsub mul rmul truediv rtruediv neg matmul iadd isub imul itruediv".split()  # noqa: SIM905
_LAYERS = """
    linear conv2d relu relu6 leaky_relu avg_pool2d max_pool2d batch_norm pad hardtanh elu silu gelu tanh sigmoid softsign dropout
    pixel_unshuffle embedding_bag
""".split()  # noqa: SIM905
_FUNCTIONS: list[tuple[str, Any, Any]] = [
    *_found(nn.functional, _LAYERS),
    *_found(torch, _NAMED),
    *_found(torch._C._nn, ("linear", "gelu", "silu", "relu6", "hardtanh", "leaky_relu", "avg_pool2d")),
    *_found(
        Tensor,
        (*_NAMED, *(f"__{name}__" for name in _OPERATORS), "view", "contiguous", "unflatten", "t", "chunk", "flip"),
    ),
    *_found(nn.Module, ("__call__", "_call_impl", "_wrapped_call_impl", "__getattr__", "__setattr__")),
]


def _library_classes() -> list[type]:
    """Operators, guarantees and solves of this library: what blocks compute with."""
    bases: tuple[type, ...] = (Transform, Guarantee, Problem, Iteration, Equation)
    found: set[type] = set(bases)
    stack: list[type] = list(bases)
    while stack:
        below: list[type] = stack.pop().__subclasses__()
        for kind in below:
            if kind not in found and kind.__module__.partition(".")[0] == "wellposed":
                found.add(kind)
                stack.append(kind)
    return sorted(found, key=lambda kind: f"{kind.__module__}.{kind.__qualname__}")


_LIBRARY = _library_classes()
for _kind in _LIBRARY:
    for _base in _kind.__mro__:
        remember(_base)

"""Which classes of modules, and of their parts, are known; and whether an object computes what its class says.

A class is known if it is one of torch's or this library's that the theorems speak of, or was registered by its author. An object
counts as one of a known class if that is exactly its class, none of the class's methods was replaced since, and the object itself
has no attribute in the place of one of its class.
"""

from __future__ import annotations

import inspect
import sys
from abc import ABCMeta
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from wellposed.activations import Activation, Smooth, activation, torch_modules
from wellposed.constraints.base import Constraint
from wellposed.errors import CertificateError, InputError, WellposedError, check, failing_as_unprovable
from wellposed.implicit import Gradient
from wellposed.layers.equilibrium import Equilibrium
from wellposed.layers.explicit import ExplicitBlock
from wellposed.layers.graph_classifier import GraphClassifier
from wellposed.layers.group_sort import group_sort
from wellposed.layers.implicit_layer import ImplicitLayer
from wellposed.network.kinds import Block, kind_for, kind_of, noted_classes
from wellposed.network.originals import BOOKKEEPING, remember, require_unchanged
from wellposed.solvers import Solver
from wellposed.solvers.solution import Tolerance

T = TypeVar("T")
# Containers that are traced, and never blocks of their own.
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
# Parts of layers that are modules of torch.
_TORCH_PARTS = (nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.ModuleList, nn.ParameterList)


def register(kind: type[T], answers: type[Block] | None = None) -> type[T]:
    """Let a class of one's own take part in certified networks, on its author's word.

    Args:
        kind: a class that inherits from `Equilibrium`, `ImplicitLayer`, `Constraint`, `Activation`, `Solver`, `Guarantee` or
            `ExplicitBlock`; the module of an input map that such a layer names in its ``injections``; or, with ``answers``, any
            module with one tensor for its input. Its author vouches that what it says of itself (guarantee, ``lipschitz``,
            slopes, rounding) is proved for what it computes.
        answers: a class that inherits from `Block` and says what is known of such modules; they are blocks of networks then, and
            their ``forward`` is not looked into.

    Returns:
        The class, so that this can be used as a decorator.

    Raises:
        InputError: no class; answers for a class that this library answers for; an `Equilibrium` that computes its value in
            another way, so that theorems about z = σ(Wz + Ux + b) would not hold for it; or another layer that does, and inherits
            what is said of its value.
    """
    if not inspect.isclass(kind):
        raise InputError(f"kind={kind!r}: must be a class")
    _require_own_word(kind)
    if answers is not None:
        fits = inspect.isclass(answers) and issubclass(answers, Block) and issubclass(kind, nn.Module)
        check(
            fits,
            "answers",
            answers,
            f"must be a class that inherits from wellposed.Block, for modules as {kind.__name__}",
        )
        check(kind not in _BUILT_IN, "kind", kind, "has the answers of this library, which hold for every network")
        kind_of(kind)(answers)  # type: ignore[arg-type]
    _own.add(kind)
    for known in (kind, *(torch_modules() if issubclass(kind, Activation) else ())):
        for base in known.__mro__:
            remember(base)
    return kind


def _require_own_word(kind: type) -> None:
    """Refuse a class that computes something else than the one it inherits from, and says what that one says."""
    changed = [name for name in _COMPUTES if _is_foreign(kind, name)]
    if not changed:
        return
    if issubclass(kind, ImplicitLayer | ExplicitBlock) and not issubclass(kind, Equilibrium):
        value = next((name for name in changed if name in _VALUE), None)
        if value is not None:
            raise InputError(
                f"kind={kind.__name__}: overrides {value}, so that what its class says of rounding and intervals would be about "
                "another map; put what it adds into a block of its own, see answers"
            )
    if issubclass(kind, Equilibrium):
        raise InputError(
            f"kind={kind.__name__}: overrides {changed[0]}, so that theorems about z = σ(Wz + Ux + b) would not hold for it; put "
            "what it adds into a block of its own"
        )
    if issubclass(kind, ImplicitLayer | ExplicitBlock) and not _is_foreign(kind, "lipschitz"):
        raise InputError(
            f"kind={kind.__name__}: overrides {changed[0]}, and inherits a lipschitz that is about another map; override it, too"
        )


def _is_foreign(kind: type, name: str) -> bool:
    """Whether a class has a method from a class that is neither this library's nor torch's."""
    owner = next((base for base in kind.__mro__ if name in vars(base)), object)
    return owner.__module__.partition(".")[0] not in ("wellposed", "torch", "builtins")


_VALUE = ("__call__", "forward", "readout")
_COMPUTES = (*_VALUE, "state", "solve", "_run")


def own_classes() -> set[type]:
    """Every class of modules, activations and solvers that this library defines, with those that were registered."""
    if len(sys.modules) != _seen[0]:
        _seen[0] = len(sys.modules)
        bases = (nn.Module, Activation, Solver, Gradient, Tolerance)
        for name, content in list(sys.modules.items()):
            if _is_own(name) and content is not None:
                _own.update(
                    part for part in vars(content).values()
                    if inspect.isclass(part) and issubclass(part, bases) and _is_own(part.__module__)
                )  # fmt: skip
    return _own


_own: set[type] = set()
_seen = [0]


def _is_own(module: str) -> bool:
    return module.partition(".")[0] == "wellposed"


def computing_class(kind: type) -> type:
    """The class whose methods a class has: itself, or the one it inherits from, if it adds nothing but its ``__init__``."""
    while (
        type(kind) in (type, ABCMeta)
        and len(kind.__bases__) == 1
        and vars(kind).keys() <= _NO_METHODS
        and not is_leaf_class(kind)
    ):
        kind = kind.__bases__[0]
    return kind


_NO_METHODS = frozenset({
    "__init__", "__module__", "__qualname__", "__doc__", "__annotations__", "__annotate_func__", "__annotations_cache__",
    "__firstlineno__", "__static_attributes__", "__abstractmethods__", "_abc_impl", "__parameters__", "__orig_bases__",
})  # fmt: skip


def is_leaf_class(kind: type) -> bool:
    """Whether modules of exactly this class are blocks of a network, and not looked into."""
    if kind in torch_leaves():
        return True
    return kind in own_classes() and issubclass(kind, nn.Module) and kind_for(kind) is not None


def torch_leaves() -> dict[type[nn.Module], None]:
    """Classes of torch's modules that are blocks, or activations that become one."""
    noted = (kind for kind in noted_classes() if kind.__module__.partition(".")[0] == "torch")
    return dict.fromkeys((*noted, *torch_modules()))


def known_blocks() -> str:
    """What is known, for errors."""
    named = sorted(
        kind.__name__
        for kind in (*torch_leaves(), *own_classes())
        if is_leaf_class(kind) and not inspect.isabstract(kind)
    )
    return ", ".join(named)


def require_known(path: str, module: nn.Module) -> None:
    """Refuse a block unless it and every part of it is of a known class and computes what that class says.

    Args:
        path: of the block in its model, for errors.
        module: the block.

    Raises:
        CertificateError: with the path of the part, what is wrong with it, and what is known.
    """
    parts = own_classes().union(_TORCH_PARTS)
    for inner, part in module.named_modules():
        where = f"{path}.{inner}" if inner else path
        kind = type(part)
        if kind not in parts and not (part is module and kind in torch_leaves()):
            raise CertificateError(
                f"{where}: a {kind.__module__}.{kind.__qualname__} is not known as a part of a {type(module).__name__}; known "
                "are torch's and this library's own classes, exactly; wellposed.register(YourClass) adds one on its author's word"
            )
        require_unchanged(where, part)
        for name, value in vars(part).items():
            if name not in BOOKKEEPING:
                _require_plain(f"{where}.{name}", value)
        for name, tensor in (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)):
            require_stored(f"{where}.{name}", tensor)
    checks = [getattr(module, name, None) for name in ("check_options", "check_parts")]
    try:
        with failing_as_unprovable("its parts do not fit together"):
            for test in checks:
                if test is not None:
                    test()
    except WellposedError as error:
        raise CertificateError(f"{path}: {error}") from error


def require_stored(where: str, tensor: Tensor) -> None:
    """Refuse tensors that may compute things of their own, or hold no plain numbers."""
    if type(tensor) not in (Tensor, nn.Parameter, nn.Buffer):
        raise CertificateError(f"{where}: is a {type(tensor).__name__}, which may compute anything; use a plain tensor")
    if tensor.is_meta or tensor.layout != torch.strided or tensor.is_quantized:
        raise CertificateError(f"{where}: is a meta, sparse or quantised tensor; certificates are about stored numbers")


def _require_plain(where: str, value: Any) -> None:
    """Refuse attributes of a block that may compute things of their own."""
    if value is None or isinstance(value, bool | int | float | str | torch.dtype | torch.device | Tensor):
        return
    if isinstance(value, tuple | list):
        for item in value:
            _require_plain(where, item)
        return
    kind = type(value)
    if kind not in own_classes() and value is not group_sort:
        raise CertificateError(
            f"{where}: a {kind.__module__}.{kind.__qualname__} is not known as a part of a block; "
            "wellposed.register(YourClass) adds a class on its author's word"
        )
    if value is group_sort or isinstance(value, Constraint):  # a constraint that a map refers to is checked as a part
        return
    require_unchanged(where, value)
    if isinstance(value, Smooth):
        require_registry(where, value)
    for name, part in vars(value).items() if hasattr(value, "__dict__") and not isinstance(value, Smooth) else ():
        if (not isinstance(value, nn.Module) and not callable(part)) or isinstance(part, Activation | Solver):
            _require_plain(f"{where}.{name}", part)


def require_registry(where: str, value: Activation) -> None:
    """Refuse a smooth activation with a known name that is not the known function of that name."""
    rest = getattr(value, "rest", None)
    if isinstance(rest, Activation):
        require_registry(f"{where}.rest", rest)
    if not isinstance(value, Smooth):
        return
    try:
        known = activation(value.name)
    except WellposedError:
        known = None
    if known is not value:
        raise CertificateError(
            f"{where}={value!r}: is not the activation of that name; write a class that inherits from Activation, and register it"
        )


_BUILT_IN = frozenset(kind for kind in (*torch_leaves(), *own_classes()) if is_leaf_class(kind))
for _kind in [*torch_leaves(), *_TORCH_PARTS, *CONTAINERS, GraphClassifier, *own_classes()]:
    for _base in _kind.__mro__:
        remember(_base)

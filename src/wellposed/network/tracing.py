"""From a module's ``forward`` to a chain of blocks, by ``torch.fx``: what is called on the way is the network."""

from __future__ import annotations

import inspect
import operator as _operators
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.fx.proxy import TraceError

from wellposed.errors import CertificateError, WellposedError
from wellposed.layers.graph_classifier import GraphClassifier
from wellposed.network.branches import Branches, Place
from wellposed.network.functions import Batch, Calls, Signal, known_functions
from wellposed.network.known import CONTAINERS, is_leaf_class, known_blocks

# Blocks whose value may share memory with their input, and those that write into it if they are told to.
_ALIASES = (nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout)


@dataclass(frozen=True)
class Step:
    """One block or sum of a traced network.

    Attributes:
        name: unique in the network.
        path: of the module in its model; None for a function.
        block: the module; None for a sum.
        sources: places of the steps that it takes its inputs from; −1 is the network's input.
        signs: of the terms of a sum.
    """

    name: str
    path: str | None
    block: nn.Module | None
    sources: tuple[int, ...]
    signs: tuple[float, ...] = ()


class _Proxy(fx.Proxy):
    """A traced tensor on which ``+=`` and its like are seen as what they are: torch.fx takes them for ``+``."""


def _writer(name: str) -> Callable[[fx.Proxy, Any], fx.Proxy]:
    function = getattr(_operators, name)

    def method(self: fx.Proxy, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return method


for _name in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "imatmul", "iand", "ior", "ixor"):
    setattr(_Proxy, f"__{_name}__", _writer(_name))


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True

    failed: str | None = None  # path of the innermost module that could not be followed

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed = self.failed or self.path_of_module(m)
            raise

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if type(m) in CONTAINERS:
            return False
        own = any(kind.__module__.partition(".")[0] == "wellposed" for kind in type(m).__mro__)
        return own or is_leaf_class(type(m)) or type(m).__module__.partition(".")[0] == "torch"

    def create_proxy(self, *args: Any, **options: Any) -> Any:
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                raise CertificateError(
                    "autocast: is on inside of the model; certificates hold for float32 and float64 only"
                )
        return super().create_proxy(*args, **options)


def trace(
    model: nn.Module, dtype: torch.dtype, leaf: Callable[[str, nn.Module], nn.Module]
) -> list[tuple[str, str | None, nn.Module]]:
    """The chain of blocks that a model's ``forward`` is.

    Args:
        model: a private copy of the module, which tracing may change.
        dtype: precision of its inputs.
        leaf: what a module that is a block is stored as, from its path.

    Returns:
        Name, path of the module (None for functions) and block, in order.

    Raises:
        CertificateError: the model does something that is not known.
    """
    if "forward" in vars(model):
        raise CertificateError("model.forward: was replaced on this object; write it as a method of its class")
    graph = _graph(model)
    steps = _Reader(model, dtype, leaf).steps(graph)
    return _chain(steps)


def has_own_forward(model: nn.Module) -> bool:
    """Whether a part of a model has a ``forward`` that is followed, and is neither torch's nor this library's."""
    return any(
        type(part) not in (*CONTAINERS, GraphClassifier) and not is_leaf_class(type(part)) for part in _outer(model)
    )


def _outer(module: nn.Module) -> Iterator[nn.Module]:
    """A module and its parts, but for those inside of blocks."""
    yield module
    if not is_leaf_class(type(module)):
        for part in module.children():
            yield from _outer(part)


def _graph(model: nn.Module) -> fx.Graph:
    """The graph of calls, which must not depend on chance."""
    before = _generators()
    signature = inspect.signature(type(model).forward)
    parameters = list(signature.parameters.values())[1:]
    if not parameters or any(part.kind in (part.VAR_POSITIONAL, part.VAR_KEYWORD) for part in parameters):
        raise CertificateError(f"model: forward{signature} must take one tensor")
    missing = [part.name for part in parameters[1:] if part.default is part.empty]
    if missing:
        raise CertificateError(
            f"model: forward needs {', '.join(missing)} besides the input; certified are maps of one tensor"
        )
    defaults = {part.name: part.default for part in parameters[1:]}
    tracer = _Tracer()
    try:
        graph = tracer.trace(model, concrete_args=defaults or None)
        if has_own_forward(model) and str(_Tracer().trace(model, concrete_args=defaults or None)) != str(graph):
            raise CertificateError("model: its forward does something else every time; certified are fixed maps")
    except WellposedError:
        raise
    except TraceError as error:
        raise CertificateError(
            f"{tracer.failed or 'model'}: its forward decides by the numbers of a tensor, or loops over one, which has no "
            f"constant ({_first_line(error)})"
        ) from error
    except Exception as error:  # what users write can fail in many ways
        raise CertificateError(
            f"{tracer.failed or 'model'}: its forward could not be followed ({type(error).__name__}: {_first_line(error)}); a "
            f"chain of known blocks, sums of branches and the functions {known_functions()} can"
        ) from error
    if _generators() != before:
        raise CertificateError("model: its forward draws random numbers; certified are fixed maps")
    return graph


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]


def _generators() -> tuple[Any, ...]:
    """States of the generators of random numbers that a module may draw from."""
    numbers: Any = np.random.get_state(legacy=True)  # noqa: NPY002
    return torch.random.get_rng_state().numpy().tobytes(), random.getstate(), numbers[1].tobytes(), numbers[2:]


class _Reader:
    """Reads a graph of calls as steps."""

    def __init__(self, model: nn.Module, dtype: torch.dtype, leaf: Callable[[str, nn.Module], nn.Module]) -> None:
        self._model, self._leaf, self._calls = model, leaf, Calls(dtype)
        self._values: dict[fx.Node, Any] = {}
        self._steps: list[Step] = []
        self._stored: dict[str, nn.Module] = {}
        self._writes: list[fx.Node] = []
        self._shared: set[fx.Node] = set()  # values that may share memory with their first input
        self._names: set[str] = set()

    def steps(self, graph: fx.Graph) -> tuple[list[Step], int]:
        """The steps, and the place of the one whose value is the output."""
        inputs = 0
        for node in graph.nodes:
            if node.op == "placeholder":
                inputs += 1
                self._values[node] = Signal(-1) if inputs == 1 else node.args[0] if node.args else None
            elif node.op == "output":
                found = self._values_of(node.args[0])
                if not isinstance(found, Signal):
                    raise CertificateError(
                        f"model: its forward returns {type(found).__name__}; certified are maps to one tensor"
                    )
                self._check_writes()
                return self._steps, found.place
            else:
                self._values[node] = self._read(node)
        raise CertificateError("model: its forward returns nothing")

    def _values_of(self, argument: Any) -> Any:
        return fx.node.map_arg(argument, lambda node: self._values[node])

    def _read(self, node: fx.Node) -> Any:
        where = self._where(node)
        if node.op == "get_attr":
            return _attribute(self._model, str(node.target))
        args, options = self._values_of(node.args), self._values_of(node.kwargs)
        signals = _signals_in((args, options))
        if node.op == "call_module":
            return self._module(node, args, options)
        if not signals:
            return self._constant(node, where, args, options)
        handler = (
            self._calls.functions.get(node.target)
            if node.op == "call_function"
            else self._calls.methods.get(str(node.target))
        )
        sizes = _sizes(node, args)
        if sizes is not None:
            return sizes
        if handler is None:
            raise CertificateError(
                f"{where} is not known; known are the functions and methods {known_functions()}, and the blocks "
                f"{known_blocks()}; wellposed.register adds a class of your own on your word"
            )
        try:
            meaning = handler(*args, **options)
        except WellposedError as error:
            raise CertificateError(f"{where} {error}") from error
        except TypeError as error:
            raise CertificateError(f"{where} has arguments that are not known ({_first_line(error)})") from error
        if meaning.alias:
            self._shared.add(node)
        if meaning.in_place:
            self._writes.append(node)
        if meaning.block is None and not meaning.signs:
            return meaning.terms[0]
        block = None if meaning.block is None else self._leaf(where, meaning.block)
        return self._step(node.name, None, block, tuple(term.place for term in meaning.terms), meaning.signs)

    def _step(
        self,
        name: str,
        path: str | None,
        block: nn.Module | None,
        sources: tuple[int, ...],
        signs: tuple[float, ...] = (),
    ) -> Signal:
        unique, count = name, 1
        while unique in self._names:
            count += 1
            unique = f"{name}@{count}"
        self._names.add(unique)
        self._steps.append(Step(unique, path, block, sources, signs))
        return Signal(len(self._steps) - 1)

    def _module(self, node: fx.Node, args: tuple[Any, ...], options: dict[str, Any]) -> Signal:
        path = str(node.target)
        if len(args) != 1 or options or not isinstance(args[0], Signal):
            raise CertificateError(f"{path}: is called with other arguments than one tensor that depends on the input")
        module = self._model.get_submodule(path)
        if getattr(module, "inplace", False):
            self._writes.append(node)
            self._shared.add(node)
        if isinstance(module, _ALIASES):
            self._shared.add(node)
        if path not in self._stored:
            self._stored[path] = self._leaf(path, module)
        return self._step(path, path, self._stored[path], (args[0].place,))

    def _constant(self, node: fx.Node, where: str, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """What a call gives that does not depend on the input, computed once."""
        name = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")
        if (node.op == "call_method" and name.endswith("_") and not name.endswith("__")) or "out" in options:
            raise CertificateError(f"{where} writes into a constant of the module")
        if node.op == "call_function" and node.target in (setattr, *(getattr(_operators, name) for name in _WRITERS)):
            raise CertificateError(f"{where} writes into a constant of the module")
        before = _generators()
        try:
            call: Any = getattr(args[0], name) if node.op == "call_method" else node.target
            found = call(*(args[1:] if node.op == "call_method" else args), **options)
        except Exception as error:  # what users write can fail in many ways
            raise CertificateError(f"{where} failed ({type(error).__name__}: {_first_line(error)})") from error
        if _generators() != before:
            raise CertificateError(f"{where} draws random numbers; certified are fixed maps")
        return found

    def _where(self, node: fx.Node) -> str:
        stack = node.meta.get("nn_module_stack") or {}
        paths = [entry[0] if isinstance(entry, tuple) else str(entry) for entry in stack.values()]
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        return f"{paths[-1] if paths and paths[-1] else 'model'}: the call of {name}"

    def _check_writes(self) -> None:
        """Refuse calls that write into memory which something else may read."""
        for node in self._writes:
            owner = next((part for part in node.args if isinstance(part, fx.Node)), None)
            while owner is not None:
                if len(owner.users) != 1 or owner.op in ("placeholder", "get_attr"):
                    raise CertificateError(
                        f"{self._where(node)} works in place on {owner.name!r}, which is the model's input or is used elsewhere, "
                        "perhaps through a view; use the operation that returns a new tensor"
                    )
                if owner not in self._shared:
                    break
                owner = next((part for part in owner.args if isinstance(part, fx.Node)), None)


_WRITERS = ("iadd", "isub", "imul", "itruediv", "imatmul", "ipow", "setitem", "delitem")


def _attribute(model: nn.Module, path: str) -> Any:
    found: Any = model
    for name in path.split("."):
        found = getattr(found, name)
    return found


def _signals_in(values: Any) -> list[Signal]:
    found: list[Signal] = []

    def look(value: Any) -> Any:
        if isinstance(value, Signal | Batch):
            found.append(value)  # type: ignore[arg-type]
        elif isinstance(value, tuple | list):
            for part in value:
                look(part)
        elif isinstance(value, dict):
            look(list(value.values()))
        elif isinstance(value, slice):
            look([value.start, value.stop, value.step])
        return value

    look(values)
    return found


def _sizes(node: fx.Node, args: tuple[Any, ...]) -> Batch | None:
    """The batch size, where a call asks for it; None for other calls."""
    first = args[0] if args else None
    if isinstance(first, Signal):
        asked_all = node.op == "call_function" and node.target is getattr and args[1:] == ("shape",)
        asked_all = asked_all or (
            node.op == "call_method" and node.target == "size" and not args[1:] and not node.kwargs
        )
        asked_one = node.op == "call_method" and node.target == "size" and args[1:] == (0,)
        return _Sizes() if asked_all else Batch() if asked_one else None
    if isinstance(first, _Sizes) and node.target is _operators.getitem and args[1:] == (0,):
        return Batch()
    return None


class _Sizes(Batch):
    """All sizes of a tensor; only the first may be asked for."""


def _chain(found: tuple[list[Step], int]) -> list[tuple[str, str | None, nn.Module]]:
    """The steps as a chain: between two places that everything passes through, one block, or branches."""
    steps, output = found
    needed, stack = {output}, [output]
    while stack:
        place = stack.pop()
        for source in steps[place].sources if place >= 0 else ():
            if source >= 0 and source not in needed:
                needed.add(source)
                stack.append(source)
    order = sorted(place for place in needed if place >= 0)
    last_use = {source: place for place in order for source in steps[place].sources}
    chain: list[tuple[str, str | None, nn.Module]] = []
    begin, held, group = -1, -1, []
    for place in order:
        group.append(place)
        held = max(held, *(last_use.get(source, -1) for source in (begin, *group[:-1]) if source != place))
        if held <= place:  # everything up to here is used up, but for the value of this step
            chain.append(_block(steps, group, begin))
            begin, held, group = place, -1, []
    return chain


def _block(steps: list[Step], group: list[int], begin: int) -> tuple[str, str | None, nn.Module]:
    first = steps[group[0]]
    if len(group) == 1 and first.block is not None:
        return first.name, first.path, first.block
    places = {begin: -1} | {place: index for index, place in enumerate(group)}
    inner = [
        Place(steps[place].name, tuple(places[source] for source in steps[place].sources), steps[place].signs)
        for place in group
    ]
    return steps[group[-1]].name, None, Branches(inner, [steps[place].block for place in group])

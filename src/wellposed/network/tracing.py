"""From a module's ``forward`` to a chain of blocks: what is called on the way is the network."""

from __future__ import annotations

import operator as _operators
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from wellposed.errors import CertificateError, WellposedError
from wellposed.network.chance import generator_states, surely_drawn
from wellposed.network.forward_tracing import first_line, follow
from wellposed.network.functions import Batch, Calls, Signal, known_functions
from wellposed.network.known import known_blocks
from wellposed.network.steps import Step, chain_of

# Blocks whose value may share memory with their input.
_ALIASES = (nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout)


def trace(
    model: nn.Module, dtype: torch.dtype, leaf: Callable[[str, nn.Module], nn.Module]
) -> list[tuple[str, nn.Module]]:
    """The chain of blocks that a model's ``forward`` is.

    Args:
        model: a private copy of the module, which tracing may change.
        dtype: precision of its inputs.
        leaf: what a module that is a block is stored as, from its path.

    Returns:
        Names and blocks, in order.

    Raises:
        CertificateError: the model does something that is not known.
    """
    if "forward" in vars(model):
        raise CertificateError("model.forward: was replaced on this object; write it as a method of its class")
    graph = follow(model)
    steps = _Reader(model, dtype, leaf).steps(graph)
    return chain_of(steps)


class _Reader:
    """Reads a graph of calls as steps."""

    def __init__(self, model: nn.Module, dtype: torch.dtype, leaf: Callable[[str, nn.Module], nn.Module]) -> None:
        self._model, self._leaf, self._calls = model, leaf, Calls(dtype)
        tensors = (*model.parameters(), *model.buffers())
        self._device = tensors[0].device if tensors else torch.device("cpu")  # where constants are made
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
        if "input" in options and not args:  # by its name
            args, options = (options["input"],), {name: value for name, value in options.items() if name != "input"}
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
        if node.op == "call_function" and node.target is getattr and args[1:] in (("dtype",), ("device",)):
            return self._calls.dtype if args[1] == "dtype" else self._device
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
            raise CertificateError(
                f"{where} has arguments that are not known: {args[1:]!r:.60}, {options!r:.60}"
            ) from error
        if meaning.alias:
            self._shared.add(node)
        if meaning.in_place:
            self._writes.append(node)
        if meaning.block is None and not meaning.signs:
            return meaning.terms[0]
        block = None if meaning.block is None else self._leaf(where, meaning.block)
        found = self._step(node.name, block, tuple(term.place for term in meaning.terms), meaning.signs)
        if meaning.then is None:
            return found
        return self._step(node.name, self._leaf(where, meaning.then), (found.place,))

    def _step(
        self,
        name: str,
        block: nn.Module | None,
        sources: tuple[int, ...],
        signs: tuple[float, ...] = (),
    ) -> Signal:
        unique, count = name, 1
        while unique in self._names:
            count += 1
            unique = f"{name}@{count}"
        self._names.add(unique)
        self._steps.append(Step(unique, block, sources, signs))
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
        return self._step(path, self._stored[path], (args[0].place,))

    def _constant(self, node: fx.Node, where: str, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """What a call gives that does not depend on the input, computed once."""
        name = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")
        if (node.op == "call_method" and name.endswith("_") and not name.endswith("__")) or "out" in options:
            raise CertificateError(f"{where} writes into a constant of the module")
        if node.op == "call_function" and node.target in (setattr, *(getattr(_operators, name) for name in _WRITERS)):
            raise CertificateError(f"{where} writes into a constant of the module")
        before = generator_states()
        try:
            call: Any = getattr(args[0], name) if node.op == "call_method" else node.target
            found = call(*(args[1:] if node.op == "call_method" else args), **options)
        except Exception as error:  # what users write can fail in many ways
            raise CertificateError(f"{where} failed ({type(error).__name__}: {first_line(error)})") from error
        if surely_drawn(before):
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

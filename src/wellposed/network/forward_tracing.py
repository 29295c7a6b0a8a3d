"""A module's ``forward`` as a graph of calls, by ``torch.fx``."""

from __future__ import annotations

import inspect
import operator as _operators
import re
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.proxy import TraceError

from wellposed.errors import CertificateError, WellposedError
from wellposed.layers.graph_classifier import GraphClassifier
from wellposed.network.chance import generator_states, surely_drawn
from wellposed.network.functions import known_functions
from wellposed.network.known import CONTAINERS, is_leaf_class


class _Proxy(fx.Proxy):
    """A traced tensor on which ``+=`` and its like are seen as what they are: torch.fx takes them for ``+``.

    Whatever a forward can learn from it that it would not learn from a tensor is noted, so that the model can be refused.
    """

    @property
    def __class__(self) -> type:
        self._note("asks for the type of a tensor")
        return type(self)

    @__class__.setter
    def __class__(self, kind: type) -> None:
        raise TypeError("a traced tensor has one class")

    def __getattr__(self, name: str) -> Any:
        if not hasattr(Tensor, name):
            self._note(f"asks a tensor for {name!r}")
        return fx.Proxy.__getattr__(self, name)

    def __len__(self) -> int:
        self._note("asks for the length of a tensor")
        raise RuntimeError("the length of a traced tensor is not known")

    def __iter__(self) -> Any:
        self._note("loops over a tensor")
        return fx.Proxy.__iter__(self)

    def __bool__(self) -> bool:
        self._note("decides by the numbers of a tensor")
        return fx.Proxy.__bool__(self)

    def __repr__(self) -> str:
        self._note("asks for the text of a tensor")
        return fx.Proxy.__repr__(self)

    __str__ = __repr__

    def __format__(self, how: str) -> str:
        return self.__repr__()

    def _note(self, what: str) -> None:
        """Note what was asked for, unless it was torch itself that asked."""
        frame = sys._getframe(2)
        asking = str(frame.f_globals.get("__name__", ""))
        internal = asking.partition(".")[0] in ("torch", "wellposed") and frame.f_code.co_name != "is_tensor"
        if not internal:
            self.tracer.noted.append(what)  # type: ignore[attr-defined]


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

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()  # torch.fx looks at the calls of all threads
        self.noted: list[str] = []  # what the forward learnt that depends on its being traced

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
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


def follow(model: nn.Module) -> fx.Graph:
    """The graph of calls, which must not depend on chance."""
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
        held = _attributes(model)
        before = generator_states()
        graph = tracer.trace(model, concrete_args=defaults or None)
        if surely_drawn(before):
            raise CertificateError("model: its forward draws random numbers; certified are fixed maps")
        if _attributes(model) != held:
            raise CertificateError("model: its forward changes the model's own attributes; certified are fixed maps")
        if has_own_forward(model) and _text(model, _Tracer().trace(model, concrete_args=defaults or None)) != _text(
            model, graph
        ):
            raise CertificateError("model: its forward does something else every time; certified are fixed maps")
    except WellposedError:
        raise
    except TraceError as error:
        raise CertificateError(
            f"{tracer.failed or 'model'}: its forward decides by the numbers or the shape of a tensor, or loops over one, which "
            f"has no constant ({first_line(error)})"
        ) from error
    except Exception as error:  # what users write can fail in many ways
        raise CertificateError(
            f"{tracer.failed or 'model'}: its forward could not be followed ({type(error).__name__}: {first_line(error)}); a "
            f"chain of known blocks, sums of branches and the functions {known_functions()} can"
        ) from error
    if tracer.noted:
        raise CertificateError(
            f"model: its forward {tracer.noted[0]}, and may do something else for it; certified are maps that do not ask"
        )
    return graph


def _attributes(model: nn.Module) -> list[tuple[str, int, int]]:
    """What the modules whose forward is followed hold: names, identities and sizes."""
    return [
        (name, id(value), len(value) if isinstance(value, list | dict | set) else 0)
        for part in _outer(model)
        if not is_leaf_class(type(part))
        for name, value in vars(part).items()
        if not name.startswith("_tensor_constant")
    ]


def _text(model: nn.Module, graph: fx.Graph) -> str:
    """A graph in words, with the numbers of the constants that were made on the way in place of their names."""

    def numbers(found: re.Match[str]) -> str:
        constant = getattr(model, found.group(0), None)
        return repr(constant.tolist()) if isinstance(constant, Tensor) else found.group(0)

    return re.sub(r"_tensor_constant\d+", numbers, re.sub(r"%_tensor_constant\d+", "%constant", str(graph)))


def first_line(error: Exception) -> str:
    """The first line of an error's message."""
    return str(error).partition("\n")[0][:200]

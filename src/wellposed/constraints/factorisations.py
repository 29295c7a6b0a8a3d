"""What depends on weights alone, kept beside the modules, not in them, so that a module that has run is the same as before."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from wellposed.operators.cache import FactorisationCache

T = TypeVar("T")

_caches: weakref.WeakKeyDictionary[nn.Module, FactorisationCache] = weakref.WeakKeyDictionary()
_formed: weakref.WeakKeyDictionary[nn.Module, FactorisationCache] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def factorisation_cache(module: nn.Module) -> FactorisationCache:
    """The factorisations of one module's weights; never part of its state, its copies or its pickles."""
    with _lock:
        known = _caches.get(module)
        if known is None:
            known = _caches[module] = FactorisationCache()
        return known


def formed_once(
    module: nn.Module, name: str, form: Callable[..., Tensor], *tensors: Tensor, lent: bool = False
) -> Tensor:
    """``form(*tensors)``, which is not formed again while the numbers in the tensors are the same.

    Gradients of what was not formed again are worked out by forming it again, when they are asked for.

    Args:
        module: whose weight it is; what was formed is kept beside it.
        name: what decides the weight beside the tensors.
        form: forms it; it has no further arguments and no memory.
        tensors: all that it depends on.
        lent: give what is kept itself, where it needs no graph, to a caller that neither writes to it nor hands it on.
    """
    if is_transformed(tensors):
        return form(*tensors)
    with _lock:
        cache = _formed.setdefault(module, FactorisationCache())
    entry = cache.entry(*(tensor.detach() for tensor in tensors))
    key = ("formed", name)
    graph = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    if key not in entry:
        value: Tensor = _Formed.apply(form, None, *tensors) if graph else form(*tensors)
        with torch.inference_mode(False):  # it may be needed for a gradient later
            kept = value.detach().clone()
        if entry.is_of(*tensors):  # nobody wrote to them meanwhile
            entry.remembered(key, lambda: kept)
        return value
    known: Tensor = entry.remembered(key, lambda: form(*tensors))
    if graph:
        recalled: Tensor = _Formed.apply(form, known, *tensors)
        return recalled
    return known if lent else known.clone()


def made_once(module: nn.Module, key: Hashable, make: Callable[[], T], *tensors: Tensor) -> T:
    """What ``make()`` makes of tensors without a graph, which is not made again while the numbers in them are the same.

    Args:
        module: whose it is; what was made is kept beside it, and must be written to by nobody.
        key: what decides it beside the tensors.
        make: makes it.
        tensors: all that it depends on.
    """
    with _lock:
        cache = _formed.setdefault(module, FactorisationCache())
    entry, named = cache.entry(*(tensor.detach() for tensor in tensors)), ("made", key)
    if named in entry:
        return entry.remembered(named, make)
    with torch.inference_mode(False), torch.no_grad():  # it may be used outside of inference mode later
        made = make()
    return entry.remembered(named, lambda: made) if entry.is_of(*tensors) else made


def proved_once(module: nn.Module, prove: Callable[..., float], *tensors: Tensor) -> float:
    """``prove(*tensors)``, which is not proved again while the numbers in the tensors are the same.

    Args:
        module: whose they are; what was proved is kept beside it.
        prove: a function that decides by the numbers alone, a bound from above.
        tensors: what it is about; where ``torch.vmap`` makes many sets of numbers of them, it is proved of all.
    """
    known = tuple(tensor.detach() for tensor in tensors)
    if torch._C._functorch.peek_interpreter_stack() is not None:
        found: list[float] = []
        _Looked.apply(lambda *numbers: found.append(prove(*numbers)), *known)
        return max(found, default=0.0)
    if is_transformed(known):
        return prove(*known)
    return made_once(module, prove, lambda: prove(*known), *known)


def is_transformed(tensors: tuple[Tensor, ...]) -> bool:
    """Whether the tensors hold no numbers or stand for others, or operations on them are being recorded."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or forward_ad._current_level >= 0:
        return True
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return True
    return any(type(tensor) not in _PLAIN or tensor.is_meta for tensor in tensors)


_PLAIN = (Tensor, nn.Parameter)


class _Formed(torch.autograd.Function):
    """A weight with the gradients of forming it; it is formed here where it is not known.

    Either way its graph keeps the same tensors: who records what a graph keeps and forms it again, as checkpoints of activations
    do, meets one graph, whether or not the weight was known meanwhile.
    """

    @staticmethod
    def forward(ctx: Any, form: Callable[..., Tensor], known: Tensor | None, *tensors: Tensor) -> Tensor:
        ctx.form, ctx.graph = form, None
        ctx.save_for_backward(*tensors)
        if known is not None:
            return known.clone()
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(_as_it_is, _as_it_is):
            leaves = [
                part.detach().requires_grad_(need) for part, need in zip(tensors, ctx.needs_input_grad[2:], strict=True)
            ]
            value = form(*leaves)
        ctx.graph = leaves, value
        return value.detach()

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        again = torch.is_grad_enabled()
        leaves, value = ctx.saved_tensors, None
        if ctx.graph is not None and not again:
            leaves, value = ctx.graph
        wanted = [leaf for leaf, needed in zip(leaves, ctx.needs_input_grad[2:], strict=True) if needed]
        with torch.enable_grad():
            value = ctx.form(*leaves) if value is None else value
            gradients = torch.autograd.grad(
                value, wanted, cotangent, create_graph=again, retain_graph=True, allow_unused=True
            )
            found = iter(gradients)
        return None, None, *(next(found) if needed else None for needed in ctx.needs_input_grad[2:])


class _Looked(torch.autograd.Function):
    """Calls a function of numbers that ``torch.func`` transforms wrap, once for each set that ``vmap`` makes of them."""

    @staticmethod
    def forward(look: Callable[..., None], *tensors: Tensor) -> Tensor:
        look(*tensors)
        return tensors[0].new_empty(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], look: Callable[..., None], *tensors: Tensor) -> tuple[Tensor, None]:
        for index in range(info.batch_size):
            each = [
                part if dim is None else part.select(dim, index) for part, dim in zip(tensors, in_dims[1:], strict=True)
            ]
            _Looked.apply(look, *each)
        return tensors[0].new_empty(0), None


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor

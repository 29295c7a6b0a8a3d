"""Layers in compiled programs: one operator of torch stands for a whole layer.

What a solve does depends on its numbers, so that ``torch.compile`` cannot follow it. The operator takes the input, the layer's
parameters and buffers, and a number by which the layer that lives in this process is found; inside of it the layer runs as it
does elsewhere. Its backward pass forms the layer's graph again around the state that was found, which costs no second solve, and
solves the adjoint equation.

An operator has one derivative only, of first order and in reverse mode; whoever asks for another one gets an error.
"""

from __future__ import annotations

import functools
import operator
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from wellposed.errors import InputError
from wellposed.implicit.parameters import exchange_of, is_in_same_memory
from wellposed.numerics.handles import found, registered

_AUTOCAST = functools.reduce(
    operator.or_,
    (
        torch._C.DispatchKeySet(key)
        for name, key in torch._C.DispatchKey.__members__.items()
        if name.startswith("Autocast")
    ),
)
_NO_FORWARD_MODE = (
    "forward-mode derivatives do not pass through layers inside torch.compile; call the model as it was before"
)


class Compilable(nn.Module, ABC):
    """A module for which one operator stands in compiled programs.

    Attributes:
        compiled_handle: the number by which the operator finds it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.compiled_handle = registered(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.compiled_handle = registered(self)  # copies are other modules

    @abstractmethod
    def shapes(self, x: Tensor) -> tuple[Sequence[int], Sequence[int]]:
        """Shapes of the value and of the state for an input, which may have no numbers.

        Raises:
            InputError: the input is of a shape that the module does not take.
        """

    @abstractmethod
    def evaluate(self, x: Tensor, aside: Any, known: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Value and state, with their graph where gradients are enabled.

        Args:
            x: the input, in the precision of the weights.
            aside: an object with a ``compiled_handle`` that the module takes beside the input, or None.
            known: the state, where an earlier call with the same numbers has found it.
        """


def value_of(layer: Compilable, x: Tensor, aside: Any = None) -> Tensor:
    """The layer's value by the operator: in programs that are being compiled, and of tensors without numbers.

    Args:
        layer: the module.
        x: its input.
        aside: what it takes beside the input: an object with a ``compiled_handle``, or None.

    Raises:
        InputError: the program is being exported, to run where the layer is not.
        NotImplementedError: the layer is called by a transform of ``torch.func``.
    """
    if torch.compiler._is_exporting_flag:  # `is_exporting()` is always true inside of torch.compile in torch 2.11
        raise InputError(
            f"torch.export: a program with {type(layer).__name__} in it would need this very layer in the process where it runs; "
            "write a file by wellposed.export, or export wellposed.deployable(model, steps)"
        )
    if torch._C._are_functorch_transforms_active():
        raise NotImplementedError(
            "transforms of torch.func do not pass through layers inside torch.compile; call the model as it was before"
        )
    tensors = [tensor for _, tensor in _places(layer)]
    return _layer(x, tensors, layer.compiled_handle, 0 if aside is None else aside.compiled_handle)[0]


def _places(layer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers, by every name that they have."""
    yield from layer.named_parameters(remove_duplicate=False)
    yield from layer.named_buffers(remove_duplicate=False)


@contextmanager
def _as_outside(tensors: Sequence[Tensor], *, graph: bool) -> Iterator[None]:
    """Inside of an operator, what torch does outside of one; graphs are recorded where they are wanted.

    Raises:
        NotImplementedError: a tensor has a tangent.
    """
    # An operator is called without whatever torch does before its kernels: graphs, but conjugates and transforms, too.
    included, excluded = torch._C._dispatch_tls_local_include_set(), torch._C._dispatch_tls_local_exclude_set()
    with torch._C._ForceDispatchKeyGuard(included, excluded & _AUTOCAST), torch.set_grad_enabled(graph):
        if forward_ad._current_level >= 0 and any(forward_ad.unpack_dual(part).tangent is not None for part in tensors):
            raise NotImplementedError(_NO_FORWARD_MODE)
        yield


class _Evaluated(nn.Module):
    """A layer whose call is its `Compilable.evaluate`: hooks of the layer's own call run outside of the operator."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer: Any = layer

    def forward(self, x: Tensor, aside: Any, known: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.layer.evaluate(x, aside, known)


def _kept(handle: int, aside: int) -> tuple[Any, Any]:
    """The layer, and what it takes beside its input."""
    return found(handle), found(aside) if aside else None


def _evaluated(
    x: Tensor, tensors: Sequence[Tensor], handle: int, aside: int, known: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Value and state of a layer with these tensors in the place of its own, which are back in it afterwards."""
    layer, beside = _kept(handle, aside)
    places = list(_places(layer))
    if all(own is given for (_, own), given in zip(places, tensors, strict=True)):
        return layer.evaluate(x, beside, known)
    given = {f"layer.{name}": tensor for (name, _), tensor in zip(places, tensors, strict=True)}
    with exchange_of(layer):
        return torch.func.functional_call(_Evaluated(layer), given, (x, beside, known), tie_weights=False)


@torch.library.custom_op("wellposed::layer", mutates_args=())
def _layer(x: Tensor, tensors: list[Tensor], handle: int, aside: int) -> tuple[Tensor, Tensor]:
    """Value and state of a layer."""
    with _as_outside((x, *tensors), graph=False):
        value, state = _evaluated(x, tensors, handle, aside, None)
        # An operator gives back memory of its own.
        value, state = (part.clone(memory_format=torch.contiguous_format) for part in (value, state))
        # A graph that keeps the state for its backward pass keeps its memory, and so these, too.
        setattr(state.untyped_storage(), "kept", _kept(handle, aside))  # noqa: B010 - mypy forbids the plain assignment
        return value, state


@_layer.register_fake
def _(x: Tensor, tensors: list[Tensor], handle: int, aside: int) -> tuple[Tensor, Tensor]:
    if forward_ad._current_level >= 0:  # the operator's tangent would be zero
        raise NotImplementedError(_NO_FORWARD_MODE)
    like = next((tensor for tensor in tensors if tensor.is_floating_point()), x)
    value, state = found(handle).shapes(x)
    return like.new_empty(value), like.new_empty(state)


@torch.library.custom_op("wellposed::layer_backward", mutates_args=())
def _backward(
    cotangent: Tensor, state: Tensor, x: Tensor, tensors: list[Tensor], handle: int, aside: int, needed: list[bool]
) -> list[Tensor]:
    """Cotangents of those that need one among the input and the tensors."""
    with _as_outside((cotangent, x, *tensors), graph=True):
        leaves = [tensor.detach().requires_grad_(need) for tensor, need in zip((x, *tensors), needed, strict=True)]
        own = [part for _, part in _places(_kept(handle, aside)[0])]
        # The layer's own tensors do where they are still those of the forward pass: other threads may use it meanwhile.
        if all(is_in_same_memory(*pair) for pair in zip(own, tensors, strict=True)) and all(
            part.requires_grad or not need for part, need in zip(own, needed[1:], strict=True)
        ):
            leaves[1:] = own
        value, _ = _evaluated(leaves[0], leaves[1:], handle, aside, state)
        wanted = [leaf for leaf, need in zip(leaves, needed, strict=True) if need]
        # What is tied has its gradient at the first of its places, for all of them.
        again = [any(leaf is other for other in wanted[:place]) for place, leaf in enumerate(wanted)]
        gradients = torch.autograd.grad(value, wanted, cotangent, allow_unused=True)
        return [
            torch.zeros_like(leaf) if gradient is None or counted else torch.empty_like(leaf).copy_(gradient)
            for leaf, gradient, counted in zip(wanted, gradients, again, strict=True)
        ]


@_backward.register_fake
def _(
    cotangent: Tensor, state: Tensor, x: Tensor, tensors: list[Tensor], handle: int, aside: int, needed: list[bool]
) -> list[Tensor]:
    return [torch.empty_like(tensor) for tensor, need in zip((x, *tensors), needed, strict=True) if need]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, tensors, ctx.compiled_handle, ctx.aside = inputs
    ctx.kept = getattr(output[1].untyped_storage(), "kept", None)
    ctx.save_for_backward(output[1], x, *tensors)


def _differentiate(ctx: Any, cotangent: Tensor, _: Tensor) -> Any:
    state, x, *tensors = ctx.saved_tensors
    needed = [ctx.needs_input_grad[0], *ctx.needs_input_grad[1]]
    parts = iter(_backward(cotangent, state, x, tensors, ctx.compiled_handle, ctx.aside, needed))
    gradients = [next(parts) if need else None for need in needed]
    return gradients[0], gradients[1:], None, None


def _refuse(ctx: Any, *_: Any) -> Any:
    raise NotImplementedError(
        "second derivatives do not pass through layers inside torch.compile; call the model as it was before"
    )


_layer.register_autograd(_differentiate, setup_context=_keep)
_backward.register_autograd(_refuse)

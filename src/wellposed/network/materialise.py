"""The gate: from a module that trains to the network that it is now."""

from __future__ import annotations

import contextlib
import copy
import threading

import torch
from torch import nn

from wellposed.errors import CertificateError, InputError, check, checked_options, failing_as_unprovable
from wellposed.layers.graph_classifier import GraphClassifier
from wellposed.network.chance import generators_kept
from wellposed.network.forward_tracing import has_own_forward
from wellposed.network.kinds import block_of
from wellposed.network.known import computing_class, is_leaf_class
from wellposed.network.network import Network
from wellposed.network.originals import require_unchanged
from wellposed.network.plain import require_plain_calls
from wellposed.network.precision import check_precision
from wellposed.network.probe import compare_on_probes
from wellposed.network.storing import stored, without_parametrisations
from wellposed.network.tracing import trace

Found = list[tuple[str, nn.Module]]


@checked_options
def materialise(model: nn.Module | Network, input_shape: tuple[int, ...] | None = None) -> Network:
    """The network that a model is now, with the numbers that run: what certificates, verifiers and bounds are about.

    The model may be any module: known blocks are taken as they are, everything else is followed through its ``forward`` by
    ``torch.fx``, where functions with a known meaning and sums of branches become blocks. Whatever is not known is refused.

    Args:
        model: a module in eval mode, or a network, which is returned as it is.
        input_shape: of one input, without the batch dimension; None to take it from the blocks as far as they tell.

    Raises:
        CertificateError: a part of the model is not known, was changed, depends on the batch or on chance, or the network does
            not compute what the model computes.
        InputError: the shape does not fit, or no module was given.

    Example:
        >>> network = wp.materialise(nn.Sequential(wp.MonDEQ(6, 5), nn.Linear(5, 3)))
        >>> [block.name for block in network.blocks], network.input_shape
        (['0', '1'], (6,))
    """
    if isinstance(model, Network):
        return model
    network = gated(model, input_shape)
    with _kept(model):
        compare_on_probes(model, network, has_own_forward(model))
    return network


_LOCK = threading.RLock()  # torch.fx follows one forward at a time


def _kept(model: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Put back what a followed forward may draw from; nothing else draws, and other threads are to be left alone."""
    return generators_kept() if has_own_forward(model) else contextlib.nullcontext()


def check_model(argument: str, model: object) -> None:
    """Raise an `InputError` unless an argument is a module or a network."""
    if not isinstance(model, nn.Module | Network):
        raise InputError(f"{argument}: is a {type(model).__name__}; needs a torch.nn.Module or a Network")


def gated(model: nn.Module, input_shape: tuple[int, ...] | None = None) -> Network:
    """The network that a model is now, not compared with the model on probes: for theorems about numbers, which need no solve.

    Args:
        model: a module in eval mode.
        input_shape: of one input, without the batch dimension; None to take it from the blocks as far as they tell.

    Raises:
        CertificateError: see `materialise`.
        InputError: see `materialise`.
    """
    check_model("model", model)
    if input_shape is not None:
        fits = isinstance(input_shape, tuple | list) and all(isinstance(size, int) and size > 0 for size in input_shape)
        check(fits, "input_shape", input_shape, "must be a tuple of positive integers, without the batch dimension")
        input_shape = tuple(input_shape)
    with (
        _LOCK,
        torch.inference_mode(False),
        torch.no_grad(),
        _kept(model),
        failing_as_unprovable("model: cannot be read"),
    ):
        require_plain_calls(model)
        check_precision((*model.named_parameters(), *model.named_buffers()))
        _check_finite(model)
        copied = copy.deepcopy(model)
        without_parametrisations(copied)
        for part in copied.modules():
            computing = computing_class(type(part))
            if computing is not type(part) and (is_leaf_class(computing) or computing is GraphClassifier):
                part.__class__ = computing
        chain = _chain(copied)
        if not chain:
            raise CertificateError(
                "model: does nothing to its input, as an empty Sequential; there is nothing to certify"
            )
        graphs = type(copied) is GraphClassifier
        try:
            return Network(chain, input_shape=input_shape, takes_graphs=graphs)
        except InputError as error:
            raise InputError(f"input_shape={input_shape}: {error}") from error


def _check_finite(model: nn.Module) -> None:
    """Refuse parameters that are not finite, by their path in the model."""
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise InputError(
                f"{name}: has NaN or infinite entries, for which nothing can be certified; was the learning rate too high?"
            )


def _chain(model: nn.Module) -> Found:
    """The blocks of a private copy of a model: names and modules."""
    dtype = _dtype_of(model)
    if type(model) is GraphClassifier:
        require_unchanged("model", model)
        known: dict[int, nn.Module] = {}
        chain: Found = []
        for place, layer in enumerate(model.layers):
            again = id(layer) in known
            known[id(layer)] = block = known[id(layer)] if again else stored(f"layers.{place}", layer)
            chain.append((f"layers.{place}", block))
        if is_leaf_class(type(model.head)) or isinstance(model.head, GraphClassifier):
            return [*chain, ("head", stored("head", model.head))]
        found = trace(model.head, dtype, lambda path, module: stored(f"head.{path}", module))
        return [*chain, *((f"head.{name}", block) for name, block in found)]
    if is_leaf_class(type(model)):
        return [("model", stored("model", model))]
    chain = trace(model, dtype, stored)
    for name, module in chain:
        if block_of(name, module).needs_graphs:
            raise CertificateError(f"{name}: needs graphs; certify a GraphClassifier")
    return chain


def _dtype_of(model: nn.Module) -> torch.dtype:
    found = [tensor.dtype for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point()]
    return torch.float64 if torch.float64 in found else found[0] if found else torch.get_default_dtype()

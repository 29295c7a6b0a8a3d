"""The gate: from a module that trains to the network that it is now."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator

import torch
from torch import nn

from wellposed.errors import CertificateError, InputError, failing_as_unprovable
from wellposed.layers.graph import ImplicitGraph
from wellposed.layers.graph_classifier import GraphClassifier, NodeSum
from wellposed.network.known import computing_class, is_leaf_class, require_plain_calls, require_unchanged
from wellposed.network.network import Network
from wellposed.network.precision import check_precision
from wellposed.network.probe import compare_on_probes
from wellposed.network.storing import stored, without_parametrisations
from wellposed.network.tracing import has_own_forward, trace

Found = list[tuple[str, str | None, nn.Module]]


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
    """
    if isinstance(model, Network):
        return model
    network = gated(model, input_shape)
    if not network.takes_graphs:
        compare_on_probes(model, network, has_own_forward(model))
    return network


@torch.no_grad()
def gated(model: nn.Module, input_shape: tuple[int, ...] | None = None) -> Network:
    """The same, without running the two: for theorems about stored numbers, which need no solve.

    Args:
        model: see `materialise`.
        input_shape: see `materialise`.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model: is a {type(model).__name__}; needs a torch.nn.Module or a Network")
    if input_shape is not None and not all(isinstance(size, int) and size > 0 for size in input_shape):
        raise InputError(
            f"input_shape={input_shape!r}: must be a tuple of positive integers, without the batch dimension"
        )
    require_plain_calls(model)
    check_precision((*model.named_parameters(), *model.named_buffers()))
    return _gated(model, None if input_shape is None else tuple(input_shape))


def _gated(model: nn.Module, input_shape: tuple[int, ...] | None) -> Network:
    with failing_as_unprovable("model: cannot be copied, so its numbers cannot be stored"):
        copied = copy.deepcopy(model)
    changed = without_parametrisations(copied)
    for part in copied.modules():
        computing = computing_class(type(part))
        if computing is not type(part) and is_leaf_class(computing):
            part.__class__ = computing
    digest = weights_digest(model)
    if type(copied) is GraphClassifier:
        require_unchanged("model", copied)
        parts = [*((f"layers.{k}", layer) for k, layer in enumerate(copied.layers)), ("head", copied.head)]
        chain: Found = [(name, name, stored(name, part)) for name, part in _flat(parts)]
    elif is_leaf_class(type(copied)):
        chain = [("model", "", stored("model", copied))]
    else:
        chain = trace(copied, _dtype_of(copied), stored)
    for name, path, block in chain:
        if isinstance(block, ImplicitGraph | NodeSum) and type(copied) is not GraphClassifier and path:
            raise CertificateError(f"{name}: needs graphs; certify a GraphClassifier")
    if not chain:
        raise CertificateError("model: does nothing to its input, as an empty Sequential; there is nothing to certify")
    paths = {name: None if path is None or _touched(path, changed) else path for name, path, _ in chain}
    blocks = tuple((name, block) for name, _, block in chain)
    return Network(blocks, paths, digest, input_shape=input_shape, takes_graphs=type(copied) is GraphClassifier)


def _touched(path: str, changed: set[str]) -> bool:
    return any(other == path or other.startswith(f"{path}.") or not path for other in changed)


def _flat(parts: list[tuple[str, nn.Module]]) -> Iterator[tuple[str, nn.Module]]:
    """Parts of a graph classifier, those of a Sequential among them one by one."""
    for name, part in parts:
        if type(part) is nn.Sequential:
            yield from _flat([(f"{name}.{inner}", module) for inner, module in part.named_children()])
        elif type(part) is GraphClassifier:
            raise CertificateError(f"{name}: a GraphClassifier inside another module; certify it by itself")
        else:
            yield name, part


def _dtype_of(model: nn.Module) -> torch.dtype:
    found = [tensor.dtype for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point()]
    return torch.float64 if torch.float64 in found else found[0] if found else torch.get_default_dtype()


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of everything in the state dict, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name}|{array.dtype}|{tuple(array.shape)}|".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

"""A network as it runs: the one object that every claim is about."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from functools import cached_property
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from wellposed.errors import CertificateError, InputError, WellposedError
from wellposed.layers.equilibrium import Equilibrium
from wellposed.layers.graph import ImplicitGraph
from wellposed.layers.graph_classifier import GraphClassifier, NodeSum
from wellposed.layers.options import SolvingModule
from wellposed.network.digest import digest_of
from wellposed.network.known import is_leaf_class, require_plain_calls
from wellposed.network.precision import check_precision
from wellposed.network.shapes import find_shape, output_shape
from wellposed.network.storing import stored, without_parametrisations
from wellposed.network.tracing import trace
from wellposed.operators.graphs import Graphs
from wellposed.solvers.solution import Tolerance

_EXACT_STEPS = 20000


class Network:
    """An immutable network of known blocks with stored numbers, apart from the module that trains it; see `materialise`.

    Attributes:
        blocks: the blocks in order, with their names: modules of known classes, which belong to the network alone.
        input_shape: of one input, where it is known; other inputs are refused.
        takes_graphs: whether inputs are torch_geometric batches.
        precision: of its parameters: ``"float32"``, ``"float64"``, or both.
        weights_sha256: digest of the state dict of the model that it was made from.
    """

    blocks: tuple[tuple[str, nn.Module], ...]
    input_shape: tuple[int, ...] | None
    takes_graphs: bool
    precision: str
    weights_sha256: str

    def __init__(
        self,
        blocks: tuple[tuple[str, nn.Module], ...],
        paths: dict[str, str | None],
        weights_sha256: str,
        *,
        input_shape: tuple[int, ...] | None = None,
        takes_graphs: bool = False,
    ) -> None:
        found = {
            "blocks": blocks, "_paths": dict(paths), "weights_sha256": weights_sha256, "takes_graphs": takes_graphs,
            "precision": check_precision(_tensors(blocks)), "_shapes": {}, "_moved": {},
            "input_shape": find_shape(blocks) if input_shape is None and not takes_graphs else input_shape,
        }  # fmt: skip
        vars(self).update(found)
        if self.input_shape is not None:
            self.output_shape(self.input_shape)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise CertificateError(f"{name}: a network never changes; materialise the changed model instead")

    def __repr__(self) -> str:
        kinds = " → ".join(type(block).__name__ for _, block in self.blocks)
        return f"Network({kinds}; {self.precision}, input {self.input_shape or 'of any shape that fits'}, digest {self.digest[:12]})"

    @cached_property
    def digest(self) -> str:
        """SHA-256 over everything that decides what the network computes: kinds, order, options and numbers of the blocks."""
        return digest_of(self.blocks)

    @property
    def dtype(self) -> torch.dtype:
        """The precision that inputs must have; float64 if parts have both."""
        return torch.float64 if "float64" in self.precision else torch.float32

    def path_of(self, name: str) -> str | None:
        """The path of a block's module in the model that the network was made from; None if a function or a changed module."""
        return self._paths[name]  # type: ignore[attr-defined, no-any-return]

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the output for inputs of a shape, both without the batch dimension.

        Raises:
            InputError: inputs of that shape do not fit the network.
        """
        known: dict[tuple[int, ...], tuple[int, ...]] = self._shapes  # type: ignore[attr-defined]
        if shape not in known:
            known[shape] = output_shape(self.blocks, shape, self.dtype)
        return known[shape]

    def check_input(self, x: Any, name: str = "x") -> None:
        """Refuse inputs that the network is not about.

        Args:
            x: to be checked: a tensor of shape (batch, ...) in the network's precision.
            name: of the argument, for the error.

        Raises:
            InputError: another type, precision or shape, or NaN or infinite entries.
        """
        if not isinstance(x, Tensor):
            raise InputError(f"{name}: is a {type(x).__name__}; needs a torch tensor of shape (batch, ...)")
        if x.dtype != self.dtype:
            raise InputError(f"{name}: has dtype {x.dtype}, the network runs in {self.dtype}; convert the inputs")
        if x.ndim < 2:
            raise InputError(f"{name}: has shape {tuple(x.shape)}; needs a batch of inputs, shape (batch, ...)")
        shape = tuple(x.shape[1:])
        if self.input_shape is not None and shape != self.input_shape:
            raise InputError(f"{name}: has inputs of shape {shape}, the network takes {self.input_shape}")
        try:
            self.output_shape(shape)
        except WellposedError as error:
            raise InputError(f"{name}: has inputs of shape {shape}, which do not fit the network ({error})") from error

    def on(self, device: torch.device) -> tuple[tuple[str, nn.Module], ...]:
        """The blocks on a device."""
        moved: dict[torch.device, tuple[tuple[str, nn.Module], ...]] = self._moved  # type: ignore[attr-defined]
        at = next((tensor.device for _, tensor in _tensors(self.blocks)), device)
        if device == at:
            return self.blocks
        if device not in moved:
            moved[device] = tuple((name, copy.deepcopy(block).to(device)) for name, block in self.blocks)
        return moved[device]

    def check_precision(self, device: torch.device | None = None) -> None:
        """Refuse to run under settings in which float32 is not computed as such."""
        check_precision(_tensors(self.blocks), device)

    def __call__(self, x: Any) -> Tensor:
        """The output, in the network's own precision and on the device of the inputs; differentiable in them.

        Args:
            x: inputs, shape (batch, ...), or a torch_geometric batch where the network takes graphs.

        Raises:
            InputError: see `check_input`.
            CertificateError: autocast or TF32 is on.
        """
        if self.takes_graphs:
            graphs, value = Graphs.of(x), x.x.to(self.dtype)
        else:
            self.check_input(x)
            graphs, value = None, x
        self.check_precision(value.device)
        for _, block in self.on(value.device):
            value = block(value, graphs) if isinstance(block, ImplicitGraph | NodeSum) else block(value)
        return value

    @cached_property
    def exact(self) -> Network:
        """The same network on the CPU in float64, number for number, with solves to nine digits."""
        blocks = tuple((name, _exact_block(block)) for name, block in self.blocks)
        return Network(
            blocks, self._paths, self.weights_sha256, input_shape=self.input_shape, takes_graphs=self.takes_graphs  # type: ignore[attr-defined]
        )  # fmt: skip


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
    if not isinstance(model, nn.Module):
        raise InputError(f"model: is a {type(model).__name__}; needs a torch.nn.Module or a Network")
    if input_shape is not None and not all(isinstance(size, int) and size > 0 for size in input_shape):
        raise InputError(
            f"input_shape={input_shape!r}: must be a tuple of positive integers, without the batch dimension"
        )
    require_plain_calls(model)
    check_precision((*model.named_parameters(), *model.named_buffers()))
    with torch.no_grad():
        network = _gated(model, None if input_shape is None else tuple(input_shape))
    return network


def _gated(model: nn.Module, input_shape: tuple[int, ...] | None) -> Network:
    try:
        copied = copy.deepcopy(model)
    except Exception as error:  # what users write can fail in many ways
        raise CertificateError(
            f"model: cannot be copied ({type(error).__name__}: {error}), so its numbers cannot be stored"
        ) from error
    changed = without_parametrisations(copied)
    digest = weights_digest(model)
    if type(copied) is GraphClassifier:
        parts = [*((f"layers.{k}", layer) for k, layer in enumerate(copied.layers)), ("head", copied.head)]
        chain = [(name, name, part) for name, part in _flat(parts)]
        chain = [(name, path, stored(name, part)) for name, path, part in chain]
    elif is_leaf_class(type(copied)):
        chain = [("model", "", stored("model", copied))]
    else:
        chain = trace(copied, _dtype_of(copied), stored)
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


def _tensors(blocks: tuple[tuple[str, nn.Module], ...]) -> Iterator[tuple[str, Tensor]]:
    for name, block in blocks:
        for inner, tensor in (*block.named_parameters(), *block.named_buffers()):
            yield f"{name}.{inner}", tensor


def _exact_block(block: nn.Module) -> nn.Module:
    exact = copy.deepcopy(block).cpu().double()
    for part in exact.modules():
        if isinstance(part, SolvingModule):
            part.tolerance = Tolerance(1e-9, 1e-9)
        if isinstance(part, Equilibrium):
            part.solver, part.max_steps = None, max(part.max_steps, _EXACT_STEPS)
    return exact


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of everything in the state dict, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name}|{array.dtype}|{tuple(array.shape)}|".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

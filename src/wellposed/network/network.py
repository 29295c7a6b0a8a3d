"""A network as it runs: the one object that every claim is about."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from wellposed.errors import CertificateError, InputError, WellposedError, check
from wellposed.network.digest import digest_of
from wellposed.network.kinds import Block, block_of
from wellposed.network.precision import check_precision
from wellposed.network.propagation import BoundedLogits, Errors, Point
from wellposed.network.shapes import find_shape, output_shape
from wellposed.operators.graphs import Graphs


class Network:
    """An immutable network of known blocks with stored numbers, apart from the module that trains it; see `materialise`.

    Attributes:
        blocks: the blocks in order, which say what is known of them; their modules belong to the network alone.
        input_shape: of one input, where it is known; other inputs are refused. None for graphs.
        takes_graphs: whether inputs are torch_geometric batches.
        precision: of its parameters: ``"float32"``, ``"float64"``, or both.
    """

    blocks: tuple[Block, ...]
    input_shape: tuple[int, ...] | None
    takes_graphs: bool
    precision: str

    def __init__(
        self,
        modules: Iterable[tuple[str, nn.Module]],
        *,
        input_shape: tuple[int, ...] | None = None,
        takes_graphs: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        blocks = tuple(block_of(name, module) for name, module in modules)
        found = {
            "blocks": blocks,
            "takes_graphs": takes_graphs,
            "precision": check_precision(tensors_of(blocks)) or str(dtype).removeprefix("torch."), "_shapes": {}, "_moved": {},
            "input_shape": None if takes_graphs else find_shape(blocks) if input_shape is None else input_shape,
        }  # fmt: skip
        vars(self).update(found)
        if self.input_shape is not None:
            self.output_shape(self.input_shape)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise CertificateError(f"{name}: a network never changes; materialise the changed model instead")

    def __delattr__(self, name: str) -> NoReturn:
        raise CertificateError(f"{name}: a network never changes")

    def require_unchanged(self) -> None:
        """Refuse a network whose blocks were written to.

        Raises:
            CertificateError: its numbers or options are others than when they were first looked at.
        """
        if digest_of(self.blocks) != self.digest:
            raise CertificateError("network: its blocks were changed; materialise the changed model instead")

    def __repr__(self) -> str:
        kinds = " → ".join(block.kind for block in self.blocks)
        return f"Network({kinds}; {self.precision}, input {self.input_shape or 'any that fits'}, digest {self.digest[:12]})"

    @cached_property
    def digest(self) -> str:
        """SHA-256 over everything that decides what the network computes: kinds, order, options and numbers of the blocks."""
        return digest_of(self.blocks)

    @property
    def dtype(self) -> torch.dtype:
        """The precision that inputs must have; float64 if parts have both."""
        return torch.float64 if "float64" in self.precision else torch.float32

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the output for inputs of a shape, both without the batch dimension.

        Raises:
            InputError: inputs of that shape do not fit the network.
        """
        known: dict[tuple[int, ...], tuple[int, ...]] = self._shapes  # type: ignore[attr-defined]
        if shape not in known:
            known[shape] = output_shape(self.blocks, shape, self.dtype)
        return known[shape]

    @property
    def gives_rows(self) -> bool:
        """Whether outputs are known to be something else than one vector, so that their entries are no logits of classes."""
        return self.input_shape is not None and len(self.output_shape(self.input_shape)) != 1

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
        if x.layout != torch.strided or x.is_nested or x.is_meta or x.is_quantized:
            raise InputError(f"{name}: is a sparse, nested, meta or quantised tensor; needs a plain one")
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
        wrapped = torch._C._functorch.is_functorch_wrapped_tensor(x)  # whose numbers cannot be looked at
        if not wrapped and not bool(torch.isfinite(x.detach()).all()):
            raise InputError(f"{name}: has NaN or infinite entries, for which the network means nothing")

    def on(self, device: torch.device) -> tuple[Block, ...]:
        """The blocks on a device."""
        moved: dict[torch.device, tuple[Block, ...]] = self._moved  # type: ignore[attr-defined]
        at = next((tensor.device for _, tensor in tensors_of(self.blocks)), device)
        if device == at:
            return self.blocks
        if device not in moved:
            moved[device] = tuple(block_of(block.name, copy.deepcopy(block.module).to(device)) for block in self.blocks)
        return moved[device]

    def check_precision(self, device: torch.device | None = None) -> None:
        """Refuse to run under settings in which float32 is not computed as such."""
        check_precision(tensors_of(self.blocks), device)

    def __call__(self, x: Any) -> Tensor:
        """The output, in the network's own precision and on the device of the inputs; differentiable in them.

        Args:
            x: inputs, shape (batch, ...), or a torch_geometric batch where the network takes graphs.

        Raises:
            InputError: see `check_input`.
            CertificateError: autocast or TF32 is on.
        """
        value, graphs = self._taken(x)
        for block in self.on(value.device):
            value, graphs = block.run(value, graphs)
        return value

    def _taken(self, x: Any) -> tuple[Tensor, Graphs | None]:
        """Inputs that were checked, with the graphs that they are of, under settings that were checked."""
        if self.takes_graphs:
            value, graphs = _graphs_of(x, self.dtype)
        else:
            self.check_input(x)
            value, graphs = x, None
        self.check_precision(value.device)
        return value, graphs

    @torch.no_grad()
    def bounded(self, x: Any, *, forward: bool = False) -> BoundedLogits:
        """The output by ``solve``, with a bound on its error that holds for every rounding on the way.

        Errors of an equilibrium are multiplied by the Lipschitz constants of everything after it. A sample whose solve did not
        converge has an infinite error.

        Args:
            x: inputs, a tensor of shape (batch, ...), or a torch_geometric batch where the network takes graphs, whose graphs are
                the samples, with the Frobenius norm of their node features.
            forward: whether ``elsewhere`` and ``growth`` are to hold for plain forward passes that are within their tolerance.
                ``solve`` checks in float64 that its result is; a forward pass stops by an estimate, which proves nothing, in its
                own precision, so that its rounding is counted besides, in the worst case, which nearly never comes.

        Raises:
            InputError: see `check_input`.
            CertificateError: autocast or TF32 is on, or nothing is known of the errors of a block.
        """
        check(type(forward) is bool, "forward", forward, "must be True or False")
        self.require_unchanged()
        value, graphs = self._taken(x)
        samples = len(value) if graphs is None else graphs.count
        inputs = math.prod(value.shape[1:])
        solved = torch.ones(samples, dtype=torch.bool, device=value.device)
        point = Point(value, Errors.none(samples, value.device), solved, graphs)
        for block in self.on(value.device):
            point = block.through(point, forward=forward)
        here = torch.where(point.solved, point.errors.here, torch.inf)
        return BoundedLogits(
            logits=point.value, error=here, elsewhere=point.errors.elsewhere, growth=point.errors.growth,
            inputs=inputs, unsolved=~point.solved, digest=self.digest,
        )  # fmt: skip

    @cached_property
    def exact(self) -> Network:
        """A copy of this network on the CPU in float64, number for number, with solves to nine digits."""
        return Network(
            [(block.name, block.exact()) for block in self.blocks],
            input_shape=self.input_shape,
            takes_graphs=self.takes_graphs,
            dtype=torch.float64,
        )


def tensors_of(blocks: Iterable[Block]) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers of blocks, by name."""
    for block in blocks:
        for inner, tensor in (*block.module.named_parameters(), *block.module.named_buffers()):
            yield f"{block.name}.{inner}", tensor


def _graphs_of(data: Any, dtype: torch.dtype) -> tuple[Tensor, Graphs]:
    """Node features in the network's dtype, which must not change them, and the structure of their graphs."""
    features = getattr(data, "x", None)
    if not isinstance(features, Tensor) or not isinstance(getattr(data, "edge_index", None), Tensor):
        raise InputError(f"x: is a {type(data).__name__}; needs a torch_geometric Data or Batch with node features x")
    if features.ndim != 2 or not features.is_floating_point() or not bool(torch.isfinite(features.detach()).all()):
        raise InputError(
            f"x.x: has dtype {features.dtype} and shape {tuple(features.shape)}; needs finite numbers for every node"
        )
    value = features.to(dtype)
    if not bool((value.double() == features.double()).all()):
        raise InputError(f"x: has dtype {features.dtype}, the weights have {value.dtype}, which rounds it; convert one")
    return value, Graphs.of(data)

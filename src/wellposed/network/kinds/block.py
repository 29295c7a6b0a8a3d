"""What the library asks of a block of a network, with the default answer "not known" to every question.

A kind of block is one class that inherits from `Block` and one file; `kind_of` says for which modules it answers. Algorithms ask
blocks, and never look at the classes of their modules.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from wellposed.errors import CertificateError, InputError, WellposedError
from wellposed.layers.equilibrium import Equilibrium
from wellposed.network.deployed import DeployedGraph, Edge
from wellposed.network.entrywise import EntrywiseStep
from wellposed.network.propagation import Own, Point, Step
from wellposed.numerics.euclidean import euclidean, product_underflow
from wellposed.numerics.norm import Norm
from wellposed.numerics.outward import above, below
from wellposed.operators.graphs import Graphs

Shape = tuple[int, ...]
Interval = tuple[Tensor, Tensor]  # least and largest values, entry by entry
Kind = TypeVar("Kind", bound="type[Block]")
_KINDS: dict[type[nn.Module], type[Block]] = {}
_INHERITED: set[type[nn.Module]] = set()
_TRIED = (2, 3)  # samples; what mixes them up cannot hide from both


class Block:
    """One block of a network: a module with stored numbers, and all that is known of it.

    Attributes:
        name: unique in the network.
        module: which computes the block's value; it belongs to the network alone.
        moves: whether the block leaves everything as it is, or flattens.
        is_identity: whether it leaves everything as it is, in eval mode.
        only_shapes: whether it puts the entries of a sample, in their order, in another shape at most.
        elementwise: whether every entry of the output comes from the entry of the input in the same place.
        contracts_entries: whether no entry of the output moves more than the entry of the input that it comes from.
        increasing: whether no entry of the output falls where entries of the input grow.
        nonexpansive: whether it is 1-Lipschitz in every norm by its class alone.
        makes_vectors: whether it makes one vector of each image.
        needs_graphs: whether its inputs are node features of graphs.
        is_implicit: whether its value is an equilibrium, or an output map of one.
    """

    moves: bool = False
    is_identity: bool = False
    only_shapes: bool = False
    elementwise: bool = False
    contracts_entries: bool = False
    increasing: bool = False
    nonexpansive: bool = False
    makes_vectors: bool = False
    needs_graphs: bool = False
    is_implicit: bool = False

    def __init__(self, name: str, module: Any) -> None:
        self.name, self.module = name, module

    def __repr__(self) -> str:
        return f"{self.name}: {self.kind}"

    @property
    def kind(self) -> str:
        """Name of the module's class."""
        return type(self.module).__name__

    def unknown(self, what: str) -> CertificateError:
        """The error that says that something is not known of this block."""
        return CertificateError(f"{self.name}: {what} is known for a {self.kind}")

    def require_usable(self) -> None:
        """Refuse options for which nothing is known, and modules that act differently in training and are in training mode.

        Raises:
            CertificateError: names the option, its value and what it may be.
        """

    # What it computes

    def run(self, value: Tensor, graphs: Graphs | None) -> tuple[Tensor, Graphs | None]:
        """The block's value, and the graphs that it is still about.

        Args:
            value: shape (batch, ...), or node features, shape (nodes, features), where there are graphs.
            graphs: the graphs of the nodes; None for inputs that are samples.
        """
        return self.module(value), None

    def through(self, point: Point, *, forward: bool) -> Point:
        """The value behind the block, with its errors.

        Args:
            point: the value before it.
            forward: whether errors elsewhere are to hold for plain forward passes, too.

        Raises:
            CertificateError: no Lipschitz constant or no bound of the rounding is known.
        """
        if point.graphs is not None:
            raise CertificateError(f"{self.name}: a {self.kind} before the pooling is not known on graphs")
        factor, _ = self.constant("2")
        image = self.module(point.value)
        steps = [Step(self.rounding(point.value, image), image, factor)]
        return Point(image, point.errors.through(factor, steps), point.solved)

    def exact(self) -> Any:
        """A copy of the module on the CPU in float64, number for number."""
        return copy.deepcopy(self.module).cpu().double()

    # What is proved of it

    def constant(self, norm: Norm) -> tuple[float, str]:
        """An upper bound of the Lipschitz constant in a norm of inputs and outputs alike, rounding included, and its reason.

        Args:
            norm: ``"2"``, ``"inf"`` or ``"1"``.

        Raises:
            CertificateError: none is known, or the weights fail their theorem.
        """
        raise self.unknown(f"no Lipschitz constant in the norm {norm!r}" if norm != "2" else "no Lipschitz constant")

    def rounding(self, value: Tensor, image: Tensor) -> Own:
        """Bound on the Euclidean error of evaluating the module in the precision that it runs in, underflow included.

        Args:
            value: inputs, shape (batch, ...).
            image: the module's value there.

        Raises:
            CertificateError: none is known.
        """
        return self.relative_rounding(value, image).plus(self.lost(value, image))

    def relative_rounding(self, value: Tensor, image: Tensor) -> Own:
        """The part of `rounding` that is relative to the sizes of the numbers."""
        raise self.unknown("no bound of the rounding of an evaluation")

    def lost(self, value: Tensor, image: Tensor, hidden: int = 0, inner: float = 1.0) -> Own:
        """What underflow takes from one evaluation, subnormal numbers kept or not.

        Args:
            value: inputs, shape (batch, ...).
            image: the module's value there.
            hidden: entries of a map inside of the block, if there is one.
            inner: one, and the norm of what comes behind that map.
        """
        if not len(value):
            return Own()
        entries = max(image[0].numel(), hidden)
        terms = max(value[0].numel(), entries) + 16  # more products than any entry is a sum of
        none = torch.zeros(1, dtype=torch.float64, device=value.device)
        args = (value.dtype, entries, terms, value[0].numel(), self.constant("2")[0])
        absolute, one = (float(product_underflow(*args, none + size)) for size in (0.0, 1.0))
        return Own(inner * (absolute + (one - absolute) * euclidean(value).double()), inner * (one - absolute))

    def interval(self, lower: Tensor, upper: Tensor) -> Interval:
        """Proved bounds of every entry of the block's value for all inputs between two, for the stored numbers as they are.

        Where nothing is known for an input, its bounds are not finite.

        Args:
            lower: least inputs, shape (batch, *input_shape), float64 on the CPU.
            upper: largest inputs, of the shape of ``lower``.

        Returns:
            Two tensors of shape (batch, *output_shape).

        Raises:
            CertificateError: nothing is known for any input.
        """
        raise self.unknown("no interval")

    def interval_of_balls(self, centre: Tensor, radius: Tensor) -> Interval | None:
        """Bounds as those of `interval` for all inputs in Euclidean balls; None where being in a ball says no more of an entry.

        Args:
            centre: shape (batch, *input_shape), float64 on the CPU.
            radius: shape (batch,), float64.
        """
        return None

    def margins(self, lower: Tensor, upper: Tensor, labels: Tensor) -> Interval:
        """Proved bounds of ``value[label] − value[k]`` for every entry k of the flattened value, for all inputs between two.

        Args:
            lower: least inputs, shape (batch, *input_shape), float64 on the CPU.
            upper: largest inputs, of the shape of ``lower``.
            labels: an entry for each input, shape (batch,).

        Returns:
            Two tensors of shape (batch, entries).

        Raises:
            CertificateError: nothing is known for any input.
        """
        least, largest = (part.flatten(1) for part in self.interval(lower, upper))
        own = labels[:, None]
        return below(least.gather(1, own) - largest), above(largest.gather(1, own) - least)

    @property
    def parts(self) -> tuple[Block, ...]:
        """The block as a chain of blocks that answer for intervals: a layer's state and its output map, or just the block."""
        return (self,)

    # How it is written down

    def deploy(self, graph: DeployedGraph, edge: Edge) -> Edge:
        """Append the block to a deployed network.

        Args:
            graph: which is written.
            edge: the block's input.

        Returns:
            Its value.

        Raises:
            CertificateError: the block has no form in deployed files.
        """
        raise self.unknown("no form in deployed files")

    # What it is, for theorems about several blocks together

    @property
    def affine_layer(self) -> Equilibrium | None:
        """The layer z = σ(Wz + Ux + b) that the block is; None for any other kind."""
        return None

    @property
    def linear_map(self) -> tuple[Tensor, Tensor | None] | None:
        """W of shape (outputs, inputs), float64 on the CPU, and b, for a map y = Wx + b of vectors; None for any other kind."""
        return None

    @property
    def entry_scale(self) -> Tensor | None:
        """Float64 a on the CPU, shape (features,), for a map y = a∘x + b of vectors, entry by entry; None for any other kind."""
        return None

    def pull_back(self, rows: Tensor, shape: Shape) -> Tensor | None:
        """Rows of a linear map behind the block as rows of one before it, every entry of which rounds once at most.

        Args:
            rows: of a map of flattened values of the block, shape (outputs, features), float64.
            shape: of the block's input.

        Returns:
            Shape (outputs, inputs); None where the block is not linear, or where this is not known.
        """
        return rows if self.moves else None

    def entrywise(self) -> list[EntrywiseStep] | None:
        """Steps with |Δy| ≤ K|Δx| for every entry, in order; None where nothing is known entry by entry."""
        return None

    def normalisation(self, inputs: int, behind: Sequence[Block] | None) -> tuple[Tensor, Tensor] | None:
        """Mean and standard deviation of every entry of a flattened input, float64, shape (inputs,); None for other kinds.

        Args:
            inputs: size of the flattened input.
            behind: the blocks between this one and the map that takes flat inputs; None for a map that takes images.

        Raises:
            CertificateError: entries of the flattened input have no mean and standard deviation of their own.
        """
        return None

    # What fits it

    @property
    def input_shape(self) -> Shape | None:
        """The one shape of samples that the block takes; None where it takes several."""
        return None

    @property
    def likely_shape(self) -> Shape | None:
        """A shape of samples that the block takes, though not the only one; None where nothing suggests one."""
        return self.input_shape

    @property
    def channels(self) -> int | None:
        """How many channels images must have; None where the block leaves it open."""
        return None

    def output_shape(self, shape: Shape, dtype: torch.dtype) -> Shape:
        """Shape of one output for inputs of a shape, found by trying it on zeros.

        Args:
            shape: of one input.
            dtype: of inputs.

        Raises:
            InputError: such inputs do not fit, or the block does not keep samples apart.
        """
        tensors = (*self.module.parameters(), *self.module.buffers())
        device = next((tensor.device for tensor in tensors), torch.device("cpu"))
        shapes = set()
        for count in _TRIED:
            try:
                value = self.module(torch.zeros(count, *shape, dtype=dtype, device=device))
            except WellposedError as error:
                raise InputError(f"{self.name}: {error}") from error
            except (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError) as error:  # torch's own words
                raise InputError(f"{self.name}: does not take inputs of shape {shape} ({str(error)[:120]})") from error
            if not isinstance(value, Tensor) or value.ndim < 2 or len(value) != count:
                raise InputError(
                    f"{self.name}: does not keep the samples of a batch apart, for inputs of shape {shape}"
                )
            shapes.add(tuple(value.shape[1:]))
        if len(shapes) > 1:
            raise InputError(f"{self.name}: gives outputs of another shape for another number of samples")
        return shapes.pop()


def kind_of(*modules: type[nn.Module], inherited: bool = False) -> Callable[[Kind], Kind]:
    """Let a class of blocks answer for modules of some classes.

    Args:
        modules: the classes.
        inherited: whether it answers for classes that inherit from them, too: for abstract ones, whose methods say what is known.
    """

    def note(kind: Kind) -> Kind:
        _KINDS.update(dict.fromkeys(modules, kind))
        if inherited:
            _INHERITED.update(modules)
        return kind

    return note


def kind_for(module: type[nn.Module]) -> type[Block] | None:
    """The class of blocks that answers for modules of a class; None where none does."""
    if module in _KINDS:
        return _KINDS[module]
    return next((_KINDS[base] for base in module.__mro__ if base in _INHERITED), None)


def block_of(name: str, module: nn.Module) -> Block:
    """The block that answers for a module; one that knows nothing if no kind is noted for its class."""
    return (kind_for(type(module)) or Block)(name, module)


def noted_classes() -> list[type[nn.Module]]:
    """The classes of modules that kinds of blocks were noted for."""
    return list(_KINDS)

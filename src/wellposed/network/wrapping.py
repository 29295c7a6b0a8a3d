"""`wrap`: the equilibrium of any module f(z, x), with a guarantee where its own parts prove one."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.passes.shape_prop import ShapeProp
from typing_extensions import override

from wellposed.any_map import fixed_point_with
from wellposed.errors import CertificateError, GuaranteeError, InputError, check, checked_options, failing_as_unprovable
from wellposed.guarantee import Contraction
from wellposed.implicit import Exact, Gradient, Settings
from wellposed.layers.compiled import Compilable, value_of
from wellposed.layers.inputs import check_finite, check_start, floating_tensors, in_precision_of
from wellposed.network.materialise import materialise
from wellposed.network.modes import evaluating
from wellposed.network.plain import require_plain_calls
from wellposed.numerics.generators import same_generators
from wellposed.numerics.linear_algebra import full_precision
from wellposed.numerics.outward import enlarged
from wellposed.numerics.uncompiled import uncompiled
from wellposed.solvers import Adaptive
from wellposed.solvers.base import Solver, check_solver
from wellposed.solvers.solution import Solution, Tolerance

_NONEXPANSIVE = {torch.tanh, torch.relu, torch.sigmoid, nn.functional.relu, nn.functional.tanh, nn.functional.sigmoid}
_SUMS = {operator.add, operator.sub, torch.add, torch.sub}
_PRODUCTS = {operator.mul, torch.mul}
_METHODS = {"tanh", "relu", "sigmoid"}


class _Whole(torch.fx.Tracer):
    """Takes layers of this library whole, as torch's own: the gate knows their constants."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        own = m.__module__.startswith(f"{__package__.partition('.')[0]}.")
        return own or super().is_leaf_module(m, module_qualified_name)


class Wrapped(Compilable):
    """The equilibrium ``z = f(z, x)`` of a module f; see `wrap`.

    Args:
        block: f.
        input_shape: of one input.
        state_shape: of one state.
        settings: of the solve.
    """

    def __init__(
        self, block: nn.Module, input_shape: tuple[int, ...], state_shape: tuple[int, ...], settings: Settings
    ) -> None:
        super().__init__()
        self.block = block
        self.input_shape, self.state_shape, self._settings = input_shape, state_shape, settings

    def extra_repr(self) -> str:
        """What is guaranteed of it now, in words."""
        try:
            return f"contracts by {self.contraction().factor:.6g}: one equilibrium exists"
        except GuaranteeError as error:
            return f"nothing is guaranteed: {error}"

    def contraction(self) -> Contraction:
        """The proof that f contracts in z for every x, from the numbers that it has now.

        Raises:
            GuaranteeError: it need not, or a part of f is not known; the message says which.
        """
        try:
            require_plain_calls(self.block)
            factor = _slope(self.block, self.state_shape, self.input_shape)
        except CertificateError as error:
            raise GuaranteeError(str(error)) from error
        if not factor < 1.0:
            raise GuaranteeError(
                f"block: its Lipschitz constant in z is at most {factor:.6g}, and not proved below one"
            )
        return Contraction(factor)

    def forward(self, x: Tensor, z0: Tensor | None = None) -> Tensor:
        """The equilibria for inputs, shape (*, *state_shape), with implicit gradients.

        Args:
            x: inputs, shape (*, *input_shape).
            z0: first iterates, shape (*, *state_shape); None for zeros.
        """
        x = in_precision_of(self, x)
        if z0 is None and (torch.compiler.is_compiling() or x.is_meta):
            return value_of(self, x)
        return self._run(x, z0, None, None).value

    def solve(self, x: Tensor, z0: Tensor | None = None) -> Solution[Tensor]:
        """The equilibria with their evidence, and error bounds where `contraction` holds.

        These bounds take an evaluation of f to be right to sixteen units of the last place.

        Args:
            x: inputs, shape (*, *input_shape).
            z0: first iterates, shape (*, *state_shape); None for zeros.
        """
        try:
            known: Contraction | None = self.contraction()
        except GuaranteeError:
            known = None
        return self._run(in_precision_of(self, x), z0, None, known)

    @override
    def shapes(self, x: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
        lead = self._batch_shape(x)
        return (*lead, *self.state_shape), (*lead, *self.state_shape)

    @override
    def evaluate(self, x: Tensor, aside: None = None, known: Tensor | None = None) -> tuple[Tensor, Tensor]:
        value = self._run(x, None, known, None).value
        return value, value

    def _batch_shape(self, x: Tensor) -> torch.Size:
        check(x.is_floating_point(), "x.dtype", x.dtype, "must be a floating-point dtype")
        count = x.ndim - len(self.input_shape)
        if count < 0 or tuple(x.shape[count:]) != self.input_shape:
            found = tuple(x.shape[max(count, 0) :])
            raise InputError(f"x: one input has shape {found}; this layer takes {self.input_shape}")
        return x.shape[:count]

    @uncompiled
    def _run(
        self, x: Tensor, z0: Tensor | None, known: Tensor | None, guarantee: Contraction | None
    ) -> Solution[Tensor]:
        lead = self._batch_shape(x)
        dtypes = {stored.dtype for stored in floating_tensors(self)}
        if dtypes and x.dtype not in dtypes:
            raise InputError(f"x: has dtype {x.dtype}, the weights have {dtypes.pop()}; convert one of them")
        check_finite(self, x, x)
        rows, shape = x.reshape(-1, *self.input_shape), (*lead, *self.state_shape)
        start = x.new_zeros(len(rows), *self.state_shape)
        if z0 is not None:
            check_start(z0, shape, x.dtype)
            start = z0.reshape(start.shape)
        settings = replace(self._settings, certified=guarantee is not None)
        with full_precision(x.device):
            found = fixed_point_with(
                self.block, start, (rows,), settings, guarantee=guarantee, batched_args=(0,),
                known=None if known is None else known.reshape(start.shape),
            )  # fmt: skip
        fields = found.reshape(lead).fields()
        return Solution(
            *fields, found.algorithm, value=found.value.reshape(shape), adjoint_reports=found.adjoint_reports
        )


@checked_options
def wrap(
    block: nn.Module, input_shape: tuple[int, ...], *, state_shape: tuple[int, ...] | None = None, guaranteed: bool = False,
    solver: Solver | None = None, gradient: Gradient | None = None, rtol: float | None = None, atol: float | None = None,
    max_steps: int = 1000, on_failure: str = "warn",
) -> Wrapped:  # fmt: skip
    """A layer whose value is the equilibrium ``z = f(z, x)`` of an existing module, as torchdeq makes it of the same f.

    Where f is made of blocks that the gate knows, of sums, multiples and 1-Lipschitz activations, its Lipschitz constant in z is
    proved for every x; below one, exactly one equilibrium exists and is reached (Banach), and `Wrapped.solve` bounds its error.
    Of any other f nothing is guaranteed, as ``print(layer)`` says. Certificates of whole models do not take wrapped layers.

    Args:
        block: maps a state of shape (batch, *state_shape) and inputs of shape (batch, *input_shape) to a state.
        input_shape: of one input.
        state_shape: of one state; None for that of one input.
        guaranteed: whether a block that does not contract now is refused.
        solver: see `wellposed.fixed_point`.
        gradient: see `wellposed.fixed_point`.
        rtol: see `wellposed.fixed_point`.
        atol: see `wellposed.fixed_point`.
        max_steps: see `wellposed.fixed_point`.
        on_failure: see `wellposed.fixed_point`.

    Raises:
        GuaranteeError: a guarantee is asked for and cannot be proved.
        InputError: no module is given.
    """
    if not isinstance(block, nn.Module):
        raise InputError(f"block: is a {type(block).__name__}; needs a torch.nn.Module f(z, x)")
    shapes = tuple(input_shape), tuple(input_shape if state_shape is None else state_shape)
    check(all(size > 0 for shape in shapes for size in shape), "input_shape, state_shape", shapes, "must be positive")
    check_solver(solver)
    settings = Settings(
        solver=Adaptive() if solver is None else solver, tolerance=Tolerance(rtol, atol), max_steps=max_steps,
        on_failure=on_failure, gradient=Exact() if gradient is None else gradient,
    )  # fmt: skip
    _check_shapes(block, *shapes)
    layer = Wrapped(block, *shapes, settings)
    if guaranteed:
        layer.contraction()
    return layer


@torch.no_grad()
def _check_shapes(block: nn.Module, input_shape: tuple[int, ...], state_shape: tuple[int, ...]) -> None:
    """Refuse shapes that a block does not take, or does not give again; its modes are afterwards as they were.

    Raises:
        InputError: names what does not fit.
    """
    like = next(floating_tensors(block), torch.zeros((), device="cpu"))
    z, x = (torch.zeros(2, *shape, dtype=like.dtype, device=like.device) for shape in (state_shape, input_shape))
    states, inputs = (f"(batch, {', '.join(map(str, shape))})" for shape in (state_shape, input_shape))
    shapes = f"states of shape {states} and inputs of shape {inputs}"
    try:
        with evaluating(block):
            value = block(z, x)
    except Exception as error:
        first = str(error).partition("\n")[0][:200]
        raise InputError(f"input_shape, state_shape: block does not take {shapes}: {first}") from error
    if getattr(value, "shape", None) != z.shape:
        given = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"input_shape, state_shape: block gives {given} for {shapes}; needs the shape of the states")


@torch.no_grad()
@same_generators()
def _slope(block: nn.Module, state_shape: tuple[int, ...], input_shape: tuple[int, ...]) -> float:
    """A proved Euclidean Lipschitz constant of f in z, for every x: through f's operations, one after the other.

    Raises:
        CertificateError: an operation is not known.
    """
    like = next(floating_tensors(block), torch.zeros((), device="cpu"))
    z, x = (torch.rand(2, *shape, dtype=like.dtype, device=like.device) for shape in (state_shape, input_shape))
    with failing_as_unprovable("block: its forward cannot be followed"):
        traced = torch.fx.GraphModule(block, _Whole().trace(block))
        ShapeProp(traced).propagate(z, x)
        first, second = block(z, x), block(z, x)
    if not torch.equal(first, second):
        raise GuaranteeError("block: gives two values for one state and input")
    if first.shape != z.shape:
        raise GuaranteeError(f"block: gives the shape {tuple(first.shape)} for states of shape {tuple(z.shape)}")
    inputs = [node for node in traced.graph.nodes if node.op == "placeholder"]
    known: dict[Any, float] = {inputs[0]: 1.0, inputs[1]: 0.0}
    for node in traced.graph.nodes:
        if node.op == "output":
            return known[node.args[0]]
        if node not in known:
            known[node] = _through(node, block, known)
    raise GuaranteeError("block: gives nothing")


def _through(node: Any, block: nn.Module, known: dict[Any, float]) -> float:
    """The constant of an operation's value, from those of its arguments; sums must not stretch what depends on the state."""
    if not any(known[part] for part in node.all_input_nodes):
        return 0.0
    moving = [part for part in node.all_input_nodes if known[part]]
    alone = not node.kwargs and len(node.args) == 1
    if alone and node.op == "call_module":
        shape = tuple(_shape(moving[0])[1:])
        return enlarged(known[moving[0]] * _constant(block.get_submodule(node.target), shape), 1)
    numbers = [part for part in node.args if isinstance(part, int | float)]
    pair = not node.kwargs and len(node.args) == 2 and len(numbers) + len([p for p in node.args if p in known]) == 2
    kept = all(_shape(part) == _shape(node) for part in moving)
    if pair and kept and node.op == "call_function" and node.target in _SUMS:
        return enlarged(sum(known[part] for part in node.args if part in known), 2)
    if pair and kept and node.op == "call_function" and node.target in _PRODUCTS and len(numbers) == 1:
        return enlarged(abs(float(numbers[0])) * known[moving[0]], 2)
    same = node.target in (_NONEXPANSIVE if node.op == "call_function" else _METHODS)
    if alone and node.op in ("call_function", "call_method") and same:
        return known[moving[0]]
    raise GuaranteeError(f"block: what {_name(node.target)} does to the state is not known")


def _shape(node: Any) -> torch.Size:
    found: torch.Size = node.meta["tensor_meta"].shape
    return found


def _name(target: str | Callable[..., Any]) -> str:
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))


def _constant(module: nn.Module, shape: tuple[int, ...]) -> float:
    """The product of the proved constants of a module's blocks, for inputs of a shape."""
    if getattr(module, "inplace", False):
        raise GuaranteeError("block: a module writes into its input")
    factors = [part.constant("2")[0] for part in materialise(module, shape).blocks]
    return enlarged(math.prod(factors), len(factors))

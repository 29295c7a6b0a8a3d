"""`wrap`: the equilibrium of any module f(z, x), with a guarantee where its own parts prove one."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.any_map import fixed_point
from wellposed.errors import CertificateError, GuaranteeError, InputError, check, checked_options
from wellposed.guarantee import Contraction
from wellposed.implicit import Gradient
from wellposed.network.materialise import materialise
from wellposed.numerics.outward import enlarged
from wellposed.solvers.base import Solver
from wellposed.solvers.solution import Solution

_NONEXPANSIVE = {torch.tanh, torch.relu, torch.sigmoid, nn.functional.relu, nn.functional.tanh, nn.functional.sigmoid}
_SUMS = {operator.add, operator.sub, torch.add, torch.sub}
_METHODS = {"tanh", "relu", "sigmoid"}


class Wrapped(nn.Module):
    """The equilibrium ``z = f(z, x)`` of a module f; see `wrap`.

    Args:
        block: f.
        state_shape: of one state.
        options: of `wellposed.fixed_point`.
    """

    def __init__(self, block: nn.Module, state_shape: tuple[int, ...] | None, options: dict[str, Any]) -> None:
        super().__init__()
        self.block = block
        self._state_shape, self._options = state_shape, options

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
        factor = _slope(self.block)
        if not factor < 1.0:
            raise GuaranteeError(
                f"block: its Lipschitz constant in z is at most {factor:.6g}, and not proved below one"
            )
        return Contraction(factor)

    def forward(self, x: Tensor, z0: Tensor | None = None) -> Tensor:
        """The equilibria for inputs, shape (batch, *state_shape), with implicit gradients.

        Args:
            x: inputs, shape (batch, ...).
            z0: first iterates; None for zeros.
        """
        return fixed_point(self.block, self._start(x, z0), (x,), batched_args=(0,), **self._options).value

    def solve(self, x: Tensor, z0: Tensor | None = None) -> Solution[Tensor]:
        """The equilibria with their evidence, and error bounds where `contraction` holds.

        These bounds take an evaluation of f to be right to sixteen units of the last place.

        Args:
            x: inputs, shape (batch, ...).
            z0: first iterates; None for zeros.
        """
        try:
            known: Contraction | None = self.contraction()
        except GuaranteeError:
            known = None
        start = self._start(x, z0)
        return fixed_point(self.block, start, (x,), batched_args=(0,), guarantee=known, **self._options)

    def _start(self, x: Tensor, z0: Tensor | None) -> Tensor:
        if z0 is not None:
            return z0
        shape = tuple(x.shape[1:]) if self._state_shape is None else self._state_shape
        return torch.zeros(len(x), *shape, dtype=x.dtype, device=x.device)


@checked_options
def wrap(
    block: nn.Module, *, state_shape: tuple[int, ...] | None = None, guaranteed: bool = False, solver: Solver | None = None,
    gradient: Gradient | None = None, rtol: float | None = None, atol: float | None = None, max_steps: int = 1000,
    on_failure: str = "warn",
) -> Wrapped:  # fmt: skip
    """A layer whose value is the equilibrium ``z = f(z, x)`` of an existing module, as torchdeq makes it of the same f.

    Where f is made of blocks that the gate knows, of sums, multiples and 1-Lipschitz activations, its Lipschitz constant in z is
    proved for every x; below one, exactly one equilibrium exists and is reached (Banach), and `Wrapped.solve` bounds its error.
    Of any other f nothing is guaranteed, as ``print(layer)`` says. Certificates of whole models do not take wrapped layers.

    Args:
        block: maps a state of shape (batch, *state_shape) and inputs of shape (batch, ...) to a state.
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
    check(state_shape is None or all(size > 0 for size in state_shape), "state_shape", state_shape, "must be positive")
    options = {
        "solver": solver, "gradient": gradient, "rtol": rtol, "atol": atol, "max_steps": max_steps, "on_failure": on_failure,
    }  # fmt: skip
    layer = Wrapped(block, state_shape, options)
    if guaranteed:
        layer.contraction()
    return layer


def _slope(block: nn.Module) -> float:
    """A proved Euclidean Lipschitz constant of f in z, for every x: through f's operations, one after the other.

    Raises:
        GuaranteeError: an operation is not known.
    """
    try:
        traced = torch.fx.symbolic_trace(block)
    except Exception as error:  # whatever a forward does with what it is given
        raise GuaranteeError(f"block: its forward cannot be followed ({type(error).__name__})") from error
    inputs = [node for node in traced.graph.nodes if node.op == "placeholder"]
    if len(inputs) != 2:
        raise GuaranteeError(f"block: its forward takes {len(inputs)} arguments, not a state and inputs")
    known: dict[Any, float] = {inputs[0]: 1.0, inputs[1]: 0.0}
    for node in traced.graph.nodes:
        if node.op == "output":
            value = node.args[0]
            if value not in known:
                raise GuaranteeError("block: gives other things than one state")
            return known[value]
        if node not in known:
            known[node] = _through(node, block, known)
    raise GuaranteeError("block: gives nothing")


def _through(node: Any, block: nn.Module, known: dict[Any, float]) -> float:
    """The constant of an operation's value, from those of its arguments."""
    slopes = [known[part] for part in node.all_input_nodes]
    if not any(slopes):
        return 0.0
    if node.op == "call_module" and len(node.args) == 1 and not node.kwargs:
        return enlarged(slopes[0] * _constant(block.get_submodule(node.target)), 1)
    plain = not node.kwargs
    if plain and node.op == "call_function" and node.target in _SUMS and len(node.args) == 2:
        return enlarged(sum(known.get(part, 0.0) for part in node.args if not isinstance(part, int | float)), 2)
    if plain and node.op == "call_function" and node.target in {operator.mul, torch.mul}:
        numbers = [part for part in node.args if isinstance(part, int | float)]
        if len(numbers) == 1:
            return enlarged(abs(float(numbers[0])) * slopes[0], 2)
    same = node.target in _NONEXPANSIVE if node.op == "call_function" else node.target in _METHODS
    if plain and node.op in ("call_function", "call_method") and same and len(node.args) == 1:
        return slopes[0]
    raise GuaranteeError(f"block: what {node.op} {_name(node.target)} does to the state is not known")


def _name(target: str | Callable[..., Any]) -> str:
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))


def _constant(module: nn.Module) -> float:
    """The product of the proved constants of a module's blocks."""
    try:
        factors = [part.constant("2")[0] for part in materialise(module).blocks]
    except CertificateError as error:
        raise GuaranteeError(f"block: {error}") from error
    return enlarged(math.prod(factors), len(factors))

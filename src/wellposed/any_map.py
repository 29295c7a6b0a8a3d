"""`fixed_point`: solve z = f(z, *args) for any batched map, with per-sample evidence and implicit gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.errors import InputError, check, checked_options
from wellposed.guarantee import Guarantee
from wellposed.implicit import AffineEquation, Exact, Gradient, MapEquation, Settings
from wellposed.implicit.memory import Guarded
from wellposed.implicit.parameters import call_with, exchange_of, parameter_places
from wellposed.numerics.linear_algebra import autocast_now, autocast_to, full_precision
from wellposed.numerics.uncompiled import uncompiled
from wellposed.solvers.adaptive import Adaptive
from wellposed.solvers.base import Solver, check_solver
from wellposed.solvers.problem import AffineProblem
from wellposed.solvers.solution import Solution, State, Tolerance


@checked_options
@uncompiled
def fixed_point(
    f: Callable[..., Any] | AffineProblem,
    z0: State,
    args: Sequence[Any] = (),
    *,
    solver: Solver | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_steps: int = 1000,
    guarantee: Guarantee | None = None,
    gradient: Gradient | None = None,
    batched_args: Sequence[int] | None = None,
    on_failure: str = "warn",
) -> Solution[State]:
    """Solve ``z = f(z, *args)`` for every sample of a batch.

    Args:
        f: maps a state, shape (batch, ...) or a tuple of such tensors, and ``args`` to a state of the same shape, sample
            by sample. A `torch.nn.Module` gets gradients for its parameters; any other function must take every tensor
            that needs a gradient through ``args``. It may write into its state, and give back one buffer every time, which
            costs copies, but not write into ``args``. An `AffineProblem` admits the operator splittings too.
        z0: first iterate; its first dimension is the batch. The solution does not depend on it, and gets no gradient.
        args: further arguments of f; those that are tensors are differentiated.
        solver: the algorithm; `Adaptive` by default: Picard where that converges well, else Anderson acceleration where that is
            faster. ``solution.algorithm`` says what ran.
        rtol: a sample is done when its error bound (residual, without a guarantee) is at most ``atol + rtol·‖z‖₂``;
            None for eps^(2/3) of the dtype.
        atol: absolute tolerance; None for eps^(2/3) of the dtype.
        max_steps: limit on the steps of each sample.
        guarantee: what is known of f, e.g. ``Contraction(0.9)``: it makes ``error_bound`` available and stopping rigorous.
        gradient: `Exact` (default), `Phantom`, `JacobianFree` or `Unrolled`.
        batched_args: positions in ``args`` of the tensors that have one row per sample. With it, finished samples leave
            the batch once they are half of it, and cost nothing more; without it they go on with the others, which makes
            them more exact where only residuals are judged.
        on_failure: ``"warn"`` or ``"raise"`` if a sample does not converge.

    Returns:
        The solution, with status, residual, steps and, given a guarantee, an error bound per sample.

    Raises:
        InputError: an argument is unusable.
        NotConvergedError: a sample did not converge and ``on_failure="raise"``.

    Example:
        >>> wp.fixed_point(torch.cos, torch.zeros(2, dtype=torch.float64)).value
        tensor([0.7391, 0.7391], dtype=torch.float64)
    """
    check_solver(solver)
    settings = Settings(
        solver=Adaptive() if solver is None else solver, tolerance=Tolerance(rtol, atol), max_steps=max_steps,
        on_failure=on_failure, gradient=Exact() if gradient is None else gradient, certified=guarantee is not None,
    )  # fmt: skip
    return fixed_point_with(f, z0, args, settings, guarantee=guarantee, batched_args=batched_args)


def fixed_point_with(
    f: Callable[..., Any] | AffineProblem,
    z0: State,
    args: Sequence[Any],
    settings: Settings,
    *,
    guarantee: Guarantee | None = None,
    batched_args: Sequence[int] | None = None,
    known: Tensor | None = None,
) -> Solution[State]:
    """As `fixed_point`, with all options of the solve in one.

    Args:
        f: see `fixed_point`.
        z0: see `fixed_point`.
        args: see `fixed_point`.
        settings: how to solve.
        guarantee: see `fixed_point`.
        batched_args: see `fixed_point`.
        known: the solution, a single tensor, if it was found before; used where the gradient is implicit.
    """
    leaves, single = _leaves_of(z0)
    around = autocast_now(leaves[0].device)  # of the map; the algorithm runs in the precision of the state
    with full_precision(leaves[0].device):
        if isinstance(f, AffineProblem):
            check(single, "z0", type(z0).__name__, "an affine problem has a single tensor for its state")
            return _solve_affine(f, leaves[0].detach(), guarantee, settings)  # type: ignore[return-value]
        check(callable(f), "f", f, "must be a function of the state, or an AffineProblem")
        function = _as_function(f, tuple(args), batched_args)
        return _solve_map(*function, leaves, guarantee, settings, around, single=single, known=known)


def _solve_map(
    function: Callable[..., Any],
    tensors: tuple[Tensor, ...],
    per_sample: tuple[bool, ...] | None,
    leaves: tuple[Tensor, ...],
    guarantee: Guarantee | None,
    settings: Settings,
    around: Callable[[], AbstractContextManager[Any]],
    *,
    single: bool,
    known: Tensor | None,
) -> Any:
    pack, unpack = _packing(leaves)
    plain = (
        single and leaves[0].ndim > 1 and around is nullcontext
    )  # nothing to rearrange, and no operations to spend on it

    def on_rows(rows: Tensor, *given: Tensor) -> Tensor:
        if plain:
            found = function(rows, *given)
            if type(found) is Tensor and found.shape == rows.shape and found.dtype == rows.dtype:
                return found
            return _checked_image(tuple(found) if isinstance(found, tuple | list) else (found,), rows, leaves)[0]
        state = unpack(rows)
        with around():
            image = function(state[0], *given) if single else function(state, *given)
            parts = tuple(image) if isinstance(image, tuple | list) else (image,)
            return pack(_checked_image(tuple(_in_precision_of(rows, part) for part in parts), rows, leaves))

    start = pack(tuple(leaf.detach() for leaf in leaves))
    watched = torch.is_grad_enabled() and settings.gradient.is_implicit
    equation = MapEquation(
        function=Guarded(on_rows), settings=settings, guarantee=guarantee, batched_tensors=per_sample,
        check_captured=watched, known=known if settings.gradient.is_implicit else None,
    )  # fmt: skip
    value, report = equation.run(start, (torch.zeros_like(start), *tensors))
    unpacked = unpack(value)
    whole: Any = unpacked[0] if single else unpacked
    return Solution(*report.fields(), report.algorithm, value=whole, adjoint_reports=equation.adjoint_reports)


def _solve_affine(
    problem: AffineProblem, start: Tensor, guarantee: Guarantee | None, settings: Settings
) -> Solution[Tensor]:
    equation = AffineEquation(
        operator=problem.operator, activation=problem.activation, guarantee=guarantee, settings=settings
    )
    value, report = equation.run(start, (*problem.operator.tensors, problem.offset, *problem.activation.tensors))
    return Solution(*report.fields(), report.algorithm, value=value, adjoint_reports=equation.adjoint_reports)


def _leaves_of(state: Any) -> tuple[tuple[Tensor, ...], bool]:
    """The tensors of a state, and whether it is a single one."""
    single = isinstance(state, Tensor)
    check(single or isinstance(state, tuple | list), "z0", state, "must be a tensor or a tuple of tensors")
    leaves: tuple[Tensor, ...] = (state,) if single else tuple(state)
    check(len(leaves) > 0, "z0", leaves, "must be a tensor or a non-empty tuple of tensors")
    for leaf in leaves:
        check(isinstance(leaf, Tensor), "z0", type(leaf).__name__, "must be a tensor or a tuple of tensors")
        check(leaf.is_floating_point(), "z0.dtype", leaf.dtype, "must be a floating-point dtype")
        check(leaf.ndim >= 1, "z0.shape", tuple(leaf.shape), "the first dimension must be the batch: use z0[None]")
        check(leaf.shape[0] == leaves[0].shape[0], "z0", leaf.shape[0], "all parts need the same batch size")
        check(
            not leaf.is_meta, "z0.device", leaf.device, "a solve looks at numbers, and tensors of this device have none"
        )
        check(leaf.dtype == leaves[0].dtype, "z0.dtype", leaf.dtype, "all parts need the same dtype")
    return leaves, single


def _packing(
    leaves: tuple[Tensor, ...],
) -> tuple[Callable[[tuple[Tensor, ...]], Tensor], Callable[[Tensor], tuple[Tensor, ...]]]:
    """Functions between the user's state and one tensor of shape (batch, ...); a single matrix passes untouched."""
    if len(leaves) == 1 and leaves[0].ndim > 1:
        return (lambda parts: parts[0]), (lambda rows: (rows,))
    shapes = [leaf.shape[1:] for leaf in leaves]
    sizes = [shape.numel() for shape in shapes]

    def pack(parts: tuple[Tensor, ...]) -> Tensor:
        return torch.cat([part.reshape(len(part), part.shape[1:].numel()) for part in parts], 1)

    def unpack(rows: Tensor) -> tuple[Tensor, ...]:
        split = rows.split(sizes, 1)
        return tuple(part.reshape(part.shape[0], *shape) for part, shape in zip(split, shapes, strict=True))

    return pack, unpack


def _in_precision_of(rows: Tensor, part: Any) -> Any:
    """A part of an image in the precision of the state, where autocast gave it another one."""
    return autocast_to(rows.dtype, part) if isinstance(part, Tensor) else part


def _checked_image(image: tuple[Tensor, ...], rows: Tensor, leaves: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    if len(image) != len(leaves):
        raise InputError(f"f: returned {len(image)} tensors for a state of {len(leaves)}")
    for part, leaf in zip(image, leaves, strict=True):
        if not isinstance(part, Tensor) or part.dtype != leaf.dtype:
            found = f"dtype {part.dtype}" if isinstance(part, Tensor) else type(part).__name__
            raise InputError(
                f"f: returned {found} for a state of dtype {leaf.dtype}; it must return the like of its state"
            )
        if part.shape[1:] != leaf.shape[1:] or part.shape[0] != rows.shape[0]:
            expected = (rows.shape[0], *leaf.shape[1:])
            raise InputError(f"f: returned shape {tuple(part.shape)} for a state of shape {expected}; they must agree")
    return image


def _as_function(
    f: Callable[..., Any], args: tuple[Any, ...], batched_args: Sequence[int] | None
) -> tuple[Callable[..., Any], tuple[Tensor, ...], tuple[bool, ...] | None]:
    """The function f with only tensors for arguments, those tensors, and which of them have a row per sample."""
    places = [place for place, arg in enumerate(args) if isinstance(arg, Tensor)]
    for place in batched_args or ():
        check(place in places, "batched_args", place, "must be positions of tensors in args")
    parameters, stored = {}, {}
    if isinstance(f, nn.Module):
        with exchange_of(f):
            parameters, stored = dict(f.named_parameters()), parameter_places(f)
    names = tuple(parameters)
    if not isinstance(f, nn.Module) and len(places) == len(args):
        return f, args, None if batched_args is None else tuple(place in batched_args for place in places)

    def function(state: Any, *tensors: Tensor) -> Any:
        full = list(args)
        for place, tensor in zip(places, tensors[len(names) :], strict=True):
            full[place] = tensor
        if isinstance(f, nn.Module):
            return call_with(f, stored, dict(zip(names, tensors, strict=False)), (state, *full))
        return f(state, *full)

    found = (*parameters.values(), *(args[place] for place in places))
    if batched_args is None:
        return function, found, None
    return function, found, (*(False for _ in names), *(place in batched_args for place in places))

"""A chain of blocks, run with a bound on the error of its value."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from wellposed.errors import CertificateError
from wellposed.guarantee import Guarantee
from wellposed.layers.contractive_cell import ContractiveCell
from wellposed.layers.equilibrium import Equilibrium
from wellposed.layers.frozen import frozen
from wellposed.layers.graph import ImplicitGraph
from wellposed.layers.graph_classifier import NodeSum
from wellposed.layers.implicit_layer import ImplicitLayer
from wellposed.network.branches import Branches, signed_sum
from wellposed.network.constants import factor_of
from wellposed.network.metric import metric_guarantee
from wellposed.network.propagation import BoundedLogits, Errors, Own, Point, Step
from wellposed.network.rounding import affine_rounding, linear_rounding, own_rounding
from wellposed.numerics.euclidean import euclidean, underflow
from wellposed.numerics.verified import spectral_norm_upper_bound
from wellposed.operators.graphs import Graphs, frobenius_norms
from wellposed.solvers.solution import Solution

Chain = Iterable[tuple[str, nn.Module]]


@torch.no_grad()
def bounded_chain(chain: Chain, x: Tensor, *, forward: bool) -> BoundedLogits:
    """The value of a chain of blocks by ``solve``, with the error bounds of its solves carried to the output.

    Errors of an equilibrium are multiplied by the Lipschitz constants of everything after it. A sample whose solve did not
    converge has an infinite error.

    Args:
        chain: the blocks, on the device of the inputs.
        x: inputs, shape (batch, ...).
        forward: whether ``elsewhere`` and ``growth`` are to hold for plain forward passes. ``solve`` checks in float64 that its
            result is within the tolerance; a forward pass stops by the same bound in its own precision, so that its rounding
            must be bounded beforehand, as in the worst case, which nearly never comes.
    """
    point = Point(x, Errors.none(len(x), x.device), torch.ones(len(x), dtype=torch.bool, device=x.device))
    for name, block in chain:
        point = _through(name, block, point, forward)
    return _logits(point, math.prod(x.shape[1:]))


@torch.no_grad()
def bounded_graphs(chain: Chain, value: Tensor, graphs: Graphs, *, forward: bool) -> BoundedLogits:
    """The value of a chain on a batch of graphs, with the error bounds of its solves carried to the output.

    Args:
        chain: layers on graphs, a pooling, and blocks of the pooled states.
        value: node features, shape (nodes, features), in the precision of the blocks.
        graphs: the graphs.
        forward: see `bounded_chain`; not known for layers on graphs.
    """
    errors = Errors.none(graphs.count, value.device)
    point, pooled = Point(value, errors, torch.ones_like(errors.here, dtype=torch.bool)), False
    for name, block in chain:
        if isinstance(block, ImplicitGraph | NodeSum):
            if forward:
                raise CertificateError(f"{name}: forward=True is not known for layers on graphs; leave it out")
            factor = factor_of(name, block).value
            step, converged = _on_graphs(block, point.value, graphs, factor)
            pooled = isinstance(block, NodeSum)
            point = Point(step.image, point.errors.through(factor, [step]), point.solved & converged)
        elif not pooled:
            raise CertificateError(f"{name}: a {type(block).__name__} before the pooling is not known on graphs")
        else:
            point = _through(name, block, point, forward)
    return _logits(point, value.shape[1])


def _logits(point: Point, inputs: int) -> BoundedLogits:
    errors = point.errors
    here = torch.where(point.solved, errors.here, torch.inf)
    return BoundedLogits(point.value, here, errors.elsewhere, errors.growth, inputs)


def _through(name: str, block: nn.Module, point: Point, forward: bool) -> Point:
    """The value behind a block."""
    if isinstance(block, Branches):
        return block.fold(point, lambda inner, part, before: _through(inner, part, before, forward), _summed)
    factor = factor_of(name, block).value
    if isinstance(block, ImplicitLayer):
        steps, converged = _solved(name, block, point.value, factor, forward)
        solved = point.solved & converged
    else:
        image = block(point.value)
        steps, solved = [Step(own_rounding(name, block, point.value, image), image, factor)], point.solved
    return Point(steps[-1].image, point.errors.through(factor, steps), solved)


def _summed(signs: tuple[float, ...], points: list[Point]) -> Point:
    """The value of a signed sum; every addition rounds once."""
    value = signed_sum(signs, [point.value for point in points])
    errors, solved = points[0].errors, points[0].solved
    for point in points[1:]:
        errors, solved = errors.plus(point.errors), solved & point.solved
    unit = torch.finfo(value.dtype).eps
    lost = underflow(value.dtype, value[0].numel(), 2) if len(value) else 0.0
    own = Own(unit * euclidean(value).double() + lost, 0.0, unit)
    return Point(value, errors.through(1.0, [Step(own, value, 1.0)]), solved)


def _on_graphs(block: ImplicitGraph | NodeSum, value: Tensor, graphs: Graphs, factor: float) -> tuple[Step, Tensor]:
    """The solve of an implicit graph layer, or the pooling; and for which graphs, the samples, the bound holds."""
    eps = torch.finfo(value.dtype).eps
    usual = torch.ones(graphs.count, dtype=torch.bool, device=value.device)
    if isinstance(block, NodeSum):
        unit = 1.001 * eps * (float(graphs.sizes.max()) + 4.0)
        own = Own(unit * frobenius_norms(value, graphs.batch, graphs.count), unit)
        return Step(own, block(value, graphs), factor), usual
    solution = block.solve(value, graphs)
    assert solution.error_bound is not None
    rtol, atol = block.limits()
    # The constant is about adjacencies of norm one.
    for part in graphs.blocks:
        usual[part.members] = part.norm <= 1.0 + 1e-12
    known = solution.error_bound.double()
    size = 1.001 * frobenius_norms(solution.value, graphs.batch, graphs.count)
    return Step(Own(atol + rtol * size, 0.0, rtol), solution.value, factor, 1.0, known), usual & solution.converged


def _solved(name: str, block: ImplicitLayer, value: Tensor, factor: float, forward: bool) -> tuple[list[Step], Tensor]:
    """The solve of an equilibrium layer, and its output map; and which samples converged."""
    promise = metric_guarantee(name, block) if isinstance(block, Equilibrium) else None
    solution = block.solve(value)
    size = euclidean(solution.value).double()
    rtol, atol = block.limits()
    if promise is not None:  # solves without a guarantee stop on residuals
        assert isinstance(block, Equilibrium)
        amplified = 1.0 + promise.offset_lipschitz() * float(torch.linalg.matrix_norm(block.operator().dense()))
        rtol, atol = 1.01 * rtol * amplified, 1.01 * atol * amplified
    own = Own(atol + rtol * size, 0.0, rtol)
    if isinstance(block, Equilibrium):
        guarantee = block.guarantee() if promise is None else promise
        sensitivity = guarantee.offset_lipschitz()
        if forward:
            own = own.plus(affine_rounding(block, value, solution.value), sensitivity)
        reach = block.injection_norm() * sensitivity
    else:
        if not isinstance(block, ContractiveCell):
            raise CertificateError(
                f"{name}: no bound of the errors of a {type(block).__name__}'s evaluation is known; inherit from Equilibrium or "
                "ContractiveCell"
            )
        # Its solves are in float64, rounded at the end.
        constant, inside, outside = block.evaluation_rounding(solution.value.dtype if forward else torch.float64)
        outside += torch.finfo(solution.value.dtype).eps
        own = own.plus(Own(constant + inside * euclidean(value).double() + outside * size, inside, outside))
        reach = factor
    known = _solve_error(block, value, solution, promise)
    image = block.readout(solution.value, value)
    if block.output is None:
        return [Step(own, image, factor, 1.0, known)], solution.converged
    reach = max(reach, 1e-12)  # any larger constant is one too; the direct map's rounding is told by it
    norm = spectral_norm_upper_bound(block.output.weight)
    read = linear_rounding(block.output, solution.value)
    if block.direct is not None:  # a further product, of the layer's input, and one more addition
        direct, eps = linear_rounding(block.direct, value), torch.finfo(image.dtype).eps
        lost = underflow(image.dtype, image[0].numel(), 2) if len(image) else 0.0
        read = read.plus(Own(direct.here + eps * euclidean(image).double() + lost, direct.inside / reach, eps))
    return [Step(own, solution.value, reach, norm, known), Step(read, image, factor)], solution.converged


def _solve_error(block: ImplicitLayer, value: Tensor, solution: Solution[Tensor], promise: Guarantee | None) -> Tensor:
    """Bound on the error of each solve; for a layer that promises nothing, by a metric that proves it well posed."""
    if solution.error_bound is not None:
        return solution.error_bound.double()
    assert isinstance(block, Equilibrium) and promise is not None
    exact = frozen(block, promise).solve(value.double().cpu())
    assert exact.error_bound is not None
    return (euclidean(exact.value - solution.value.double().cpu()) * (1.0 + 1e-12) + exact.error_bound).to(value.device)

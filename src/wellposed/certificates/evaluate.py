"""Logits with a bound on their error: what a certificate is applied to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.certificates.lipschitz import factor_of
from wellposed.certificates.well_posedness import metric_guarantee
from wellposed.errors import CertificateError, InputError
from wellposed.guarantee import Guarantee
from wellposed.layers.blocks import is_plain
from wellposed.layers.contractive_cell import ContractiveCell
from wellposed.layers.equilibrium import Equilibrium
from wellposed.layers.explicit import ExplicitBlock
from wellposed.layers.frozen import frozen
from wellposed.layers.graph import ImplicitGraph
from wellposed.layers.graph_classifier import NodeSum
from wellposed.layers.group_sort import GroupSort
from wellposed.layers.implicit_layer import ImplicitLayer
from wellposed.layers.normalize import batch_norm_map
from wellposed.layers.orthogonal_conv import OrthogonalConv2d, UnitPool2d
from wellposed.layers.orthogonal_linear import OrthogonalLinear
from wellposed.network import Network, materialise
from wellposed.network.branches import Branches, signed_sum
from wellposed.network.pointwise import Elementwise, Reshape
from wellposed.norms import euclidean
from wellposed.operators.dense import Dense
from wellposed.operators.fourier import image_rounding
from wellposed.operators.graphs import Graphs, frobenius_norms
from wellposed.solvers.solution import Solution
from wellposed.verified import spectral_norm_upper_bound

# Blocks that only move numbers, or replace some by zero or by a bound.
_EXACT = (
    nn.Linear,
    OrthogonalLinear,
    nn.Flatten,
    nn.Unflatten,
    nn.Identity,
    nn.ReLU,
    nn.Hardtanh,
    nn.Dropout,
    GroupSort,
    ExplicitBlock,
    Reshape,
)


@dataclass(frozen=True)
class BoundedLogits:
    """Logits and what is known of their error.

    Attributes:
        logits: shape (batch, classes).
        error: bound on ‖logits − true logits‖₂ through solver residuals and rounding, shape (batch,), float64.
        elsewhere: with ``growth``: the same bound for the evaluation of any input at most r away in the Euclidean norm, provided
            that its solves converge, is ``elsewhere + growth·r``; shape (batch,). Solves elsewhere may stop anywhere within their
            tolerance, whatever they reached here.
        growth: shape (batch,).
        inputs: size of an input.
    """

    logits: Tensor
    error: Tensor
    elsewhere: Tensor
    growth: Tensor
    inputs: int


@dataclass(frozen=True)
class _Own:
    """Error of one step's own arithmetic, and how fast it may grow with the norms of the step's input and output.

    Attributes:
        here: at the inputs, shape (batch,), or a number.
        inside: per change of the input, in the Euclidean norm.
        outside: per change of the output.
    """

    here: Tensor | float = 0.0
    inside: float = 0.0
    outside: float = 0.0

    def plus(self, other: _Own, scale: float = 1.0) -> _Own:
        return _Own(
            self.here + scale * other.here, self.inside + scale * other.inside, self.outside + scale * other.outside
        )


@dataclass(frozen=True)
class _Step:
    """A part of a block.

    Attributes:
        own: its error, anywhere.
        image: its output at the inputs.
        reach: Lipschitz constant from the block's input to its output.
        after: Lipschitz constant from its output to the block's.
        known: its error at the inputs, where that is known better.
    """

    own: _Own
    image: Tensor
    reach: float
    after: float = 1.0
    known: Tensor | None = None


@dataclass(frozen=True)
class _Errors:
    """Errors on their way through the blocks: at the inputs themselves, and anywhere around them.

    Attributes:
        here: at the inputs, shape (batch,).
        elsewhere: with ``growth``: at most r away, where the evaluation may stop anywhere within its tolerances, it is
            ``elsewhere + growth·r``.
        growth: shape (batch,).
        reach: Lipschitz constant from the network's input to here.
    """

    here: Tensor
    elsewhere: Tensor
    growth: Tensor
    reach: float = 1.0

    @classmethod
    def none(cls, count: int, device: torch.device) -> _Errors:
        """Those of the inputs."""
        zero = torch.zeros(count, dtype=torch.float64, device=device)
        return cls(zero, zero, zero)

    def through(self, factor: float, steps: list[_Step]) -> _Errors:
        """Those behind a block of this Lipschitz constant, which is done in these steps."""
        slack, spread = self.here + self.elsewhere, self.growth
        here, elsewhere, growth = (factor * part for part in (self.here, self.elsewhere, self.growth))
        # By how much more than its distance the input of a step may differ from the one here, and how that grows with r.
        moved, rate = slack, self.reach + spread
        # What earlier steps have added to the output of a step already.
        added, adding = torch.zeros_like(slack), torch.zeros_like(slack)
        for step in steps:
            own = step.own
            at_hand = torch.zeros_like(here) + own.here if step.known is None else step.known
            # The output elsewhere differs by reach·r and by all errors, also by the one that is bounded here.
            out = step.reach * slack + at_hand + added
            out_rate = step.reach * (self.reach + spread) + adding
            anywhere = own.here + own.inside * moved + own.outside * out
            rising = own.inside * rate + own.outside * out_rate
            share = 1.0 / (1.0 - own.outside) if own.outside < 1.0 else math.inf
            # Without error 0·∞ would not be a number.
            anywhere, rising = (torch.where(part > 0.0, part * share, part) for part in (anywhere, rising))
            here, elsewhere = here + step.after * at_hand, elsewhere + step.after * anywhere
            growth = growth + step.after * rising
            moved, rate = out + anywhere, out_rate + rising
            added, adding = added + step.after * (at_hand + anywhere), adding + step.after * rising
        here, elsewhere, growth = (part * (1.0 + 1e-14) for part in (here, elsewhere, growth))
        return _Errors(here, elsewhere, growth, self.reach * factor)

    def plus(self, other: _Errors) -> _Errors:
        """Those of a sum or difference, before its own rounding."""
        parts = ((self.here, other.here), (self.elsewhere, other.elsewhere), (self.growth, other.growth))
        here, elsewhere, growth = ((first + second) * (1.0 + 1e-15) for first, second in parts)
        return _Errors(here, elsewhere, growth, self.reach + other.reach)


@dataclass(frozen=True)
class _Point:
    """A value inside of the network.

    Attributes:
        value: at the inputs, shape (batch, ...).
        errors: of it.
        solved: whether all solves so far did converge, shape (batch,).
    """

    value: Tensor
    errors: _Errors
    solved: Tensor


@torch.no_grad()
def bounded_logits(model: nn.Module | Network, x: Any, *, forward: bool = False) -> BoundedLogits:
    """Evaluate a network by ``solve`` and carry the error bounds of its solves to the output.

    Errors of an equilibrium are multiplied by the Lipschitz constants of everything after it. A sample whose solve did not
    converge has an infinite error.

    Args:
        model: a network, or a module to be materialised.
        x: inputs, a tensor of shape (batch, ...); for a `GraphClassifier` a torch_geometric ``Data`` or ``Batch``, whose graphs
            are the samples, with the Frobenius norm of their node features.
        forward: whether ``elsewhere`` and ``growth`` are to hold for plain forward passes. ``solve`` checks in float64 that its
            result is within the tolerance; a forward pass stops by the same bound in its own precision, so that its rounding
            must be bounded beforehand, as in the worst case, which nearly never comes.
    """
    network = materialise(model)
    if network.takes_graphs:
        return _graph_logits(network, x, forward)
    network.check_input(x)
    network.check_precision(x.device)
    errors = _Errors.none(len(x), x.device)
    point = _Point(x, errors, torch.ones(len(x), dtype=torch.bool, device=x.device))
    for name, block in network.on(x.device):
        point = _through(name, block, point, forward)
    errors = point.errors
    here = torch.where(point.solved, errors.here, torch.inf)
    return BoundedLogits(point.value, here, errors.elsewhere, errors.growth, math.prod(x.shape[1:]))


def _through(name: str, block: nn.Module, point: _Point, forward: bool) -> _Point:
    """The value behind a block."""
    if isinstance(block, Branches):
        return block.fold(point, lambda inner, part, before: _through(inner, part, before, forward), _summed)
    factor = factor_of(name, block).value
    if isinstance(block, ImplicitLayer):
        steps, converged = _solved(name, block, point.value, factor, forward)
        solved = point.solved & converged
    else:
        image = block(point.value)
        steps, solved = [_Step(_own(name, block, point.value, image), image, factor)], point.solved
    return _Point(steps[-1].image, point.errors.through(factor, steps), solved)


def _summed(signs: tuple[float, ...], points: list[_Point]) -> _Point:
    """The value of a signed sum; every addition rounds once."""
    value = signed_sum(signs, [point.value for point in points])
    errors, solved = points[0].errors, points[0].solved
    for point in points[1:]:
        errors, solved = errors.plus(point.errors), solved & point.solved
    unit = torch.finfo(value.dtype).eps
    own = _Own(unit * euclidean(value).double(), 0.0, unit)
    return _Point(value, errors.through(1.0, [_Step(own, value, 1.0)]), solved)


def _graph_logits(network: Network, data: Any, forward: bool) -> BoundedLogits:
    """The same for a batch of graphs."""
    graphs = Graphs.of(data)
    value, pooled = _features(network, data.x), False
    network.check_precision(value.device)
    errors = _Errors.none(graphs.count, value.device)
    solved = torch.ones_like(errors.here, dtype=torch.bool)
    for name, block in network.on(value.device):
        if isinstance(block, ImplicitGraph | NodeSum):
            factor = factor_of(name, block).value
            if forward:
                raise CertificateError(f"{name}: forward=True is not known for layers on graphs; leave it out")
            step, converged = _on_graphs(block, value, graphs, factor)
            pooled, solved = isinstance(block, NodeSum), solved & converged
            value, errors = step.image, errors.through(factor, [step])
        elif not pooled:
            raise CertificateError(f"{name}: a {type(block).__name__} before the pooling is not known on graphs")
        else:
            point = _through(name, block, _Point(value, errors, solved), forward)
            value, errors, solved = point.value, point.errors, point.solved
    here = torch.where(solved, errors.here, torch.inf)
    return BoundedLogits(value, here, errors.elsewhere, errors.growth, data.x.shape[1])


def _features(network: Network, features: Tensor) -> Tensor:
    """Node features in the network's dtype, which must not change them: the constant is about what goes in."""
    value = features.to(network.dtype)
    if not bool((value.double() == features.double()).all()):
        raise InputError(f"x: has dtype {features.dtype}, the weights have {value.dtype}, which rounds it; convert one")
    return value


def _on_graphs(block: ImplicitGraph | NodeSum, value: Tensor, graphs: Graphs, factor: float) -> tuple[_Step, Tensor]:
    """The solve of an implicit graph layer, or the pooling; and for which graphs, the samples, the bound holds."""
    eps = torch.finfo(value.dtype).eps
    usual = torch.ones(graphs.count, dtype=torch.bool, device=value.device)
    if isinstance(block, NodeSum):
        unit = 1.001 * eps * (float(graphs.sizes.max()) + 4.0)
        own = _Own(unit * frobenius_norms(value, graphs.batch, graphs.count), unit)
        return _Step(own, block(value, graphs), factor), usual
    solution = block.solve(value, graphs)
    assert solution.error_bound is not None
    rtol, atol = block.limits()
    # The constant is about adjacencies of norm one.
    for part in graphs.blocks:
        usual[part.members] = part.norm <= 1.0 + 1e-12
    known = solution.error_bound.double()
    size = 1.001 * frobenius_norms(solution.value, graphs.batch, graphs.count)
    return _Step(_Own(atol + rtol * size, 0.0, rtol), solution.value, factor, 1.0, known), usual & solution.converged


def _solved(name: str, block: ImplicitLayer, value: Tensor, factor: float, forward: bool) -> tuple[list[_Step], Tensor]:
    """The solve of an equilibrium layer, and its output map; and which samples converged."""
    promise = metric_guarantee(name, block) if isinstance(block, Equilibrium) else None
    solution = block.solve(value)
    size = euclidean(solution.value).double()
    rtol, atol = block.limits()
    if promise is not None:  # solves without a guarantee stop on residuals
        assert isinstance(block, Equilibrium)
        amplified = 1.0 + promise.offset_lipschitz() * float(torch.linalg.matrix_norm(block.operator().dense()))
        rtol, atol = 1.01 * rtol * amplified, 1.01 * atol * amplified
    own = _Own(atol + rtol * size, 0.0, rtol)
    if isinstance(block, Equilibrium):
        guarantee = block.guarantee() if promise is None else promise
        sensitivity = guarantee.offset_lipschitz()
        if forward:
            own = own.plus(_affine_rounding(block, value, solution.value), sensitivity)
        reach = block.injection_norm() * sensitivity
    else:
        assert isinstance(block, ContractiveCell)
        # Its solves are in float64, rounded at the end.
        constant, inside, outside = block.evaluation_rounding(solution.value.dtype if forward else torch.float64)
        outside += torch.finfo(solution.value.dtype).eps
        own = own.plus(_Own(constant + inside * euclidean(value).double() + outside * size, inside, outside))
        reach = factor
    known = _solve_error(block, value, solution, promise)
    image = block.readout(solution.value, value)
    if block.output is None:
        return [_Step(own, image, factor, 1.0, known)], solution.converged
    norm = spectral_norm_upper_bound(block.output.weight)
    read = _linear(block.output, solution.value)
    if block.direct is not None:  # a further product, of the layer's input, and one more addition
        direct, eps = _linear(block.direct, value), torch.finfo(image.dtype).eps
        ratio = direct.inside / max(reach, 1e-300) if reach > 0.0 else math.inf
        read = read.plus(_Own(direct.here + eps * euclidean(image).double(), ratio, eps))
    return [_Step(own, solution.value, reach, norm, known), _Step(read, image, factor)], solution.converged


def _affine_rounding(block: Equilibrium, value: Tensor, state: Tensor) -> _Own:
    """Rounding of one evaluation of Ux + b and of σ(Wz + Ux + b) in the working precision, in units of the offset."""
    injection, operator = block.injection, block.operator()
    eps = torch.finfo(state.dtype).eps
    weight = injection.weight.detach().double()
    absolute = 0.0 if block.activation.homogeneous else 8.0 * eps * state[0].numel() ** 0.5 if len(state) else 0.0
    if weight.ndim == 2 and isinstance(operator, Dense):
        unit = 0.5 * eps * (weight.shape[1] + len(weight) + 8) * 1.01
        matrix = operator.dense().detach().double().abs()
        bias = 0.0 if injection.bias is None else injection.bias.detach().double().abs()
        terms = value.double().abs() @ weight.abs().t() + state.double().abs() @ matrix.t() + bias
        norms = [spectral_norm_upper_bound(part.abs()) for part in (weight, matrix)]
        here = unit * euclidean(terms) + 16.0 * eps * euclidean(state).double() + absolute
        return _Own(here, unit * norms[0], unit * norms[1] + 16.0 * eps)
    taps = math.prod(weight.shape[2:])
    # Each input enters so many sums of every output channel.
    frobenius = float(weight.norm()) * taps**0.5
    constant = float(euclidean(injection(torch.zeros_like(value[:1]))).double()) if len(value) else 0.0
    terms_ = weight[0].numel() + 16.0
    one = torch.ones(1, dtype=torch.float64)
    by_state, by_offset = (float(operator.rounding(*pair)) for pair in ((one, 0.0 * one), (0.0 * one, one)))
    inside, outside = eps * terms_ * frobenius + by_offset * block.injection_norm(), by_state + 16.0 * eps
    here = absolute + (eps * terms_ + by_offset) * constant
    here = here + inside * euclidean(value).double() + outside * euclidean(state).double()
    return _Own(here, inside, outside)


def _solve_error(block: ImplicitLayer, value: Tensor, solution: Solution[Tensor], promise: Guarantee | None) -> Tensor:
    """Bound on the error of each solve; for a layer that promises nothing, by a metric that proves it well posed."""
    if solution.error_bound is not None:
        return solution.error_bound.double()
    assert isinstance(block, Equilibrium) and promise is not None
    exact = frozen(block, promise).solve(value.double().cpu())
    assert exact.error_bound is not None
    return (euclidean(exact.value - solution.value.double().cpu()) * (1.0 + 1e-12) + exact.error_bound).to(value.device)


def _linear(linear: Any, value: Tensor) -> _Own:
    """Rounding of a linear map: γ_n of a product of n terms, plus the bias.

    Output maps of images may average over windows first, which does not expand, and whose sums round too.
    """
    averaged = value[0].numel() // max(linear.in_features, 1) if len(value) else 1
    unit = 0.5 * torch.finfo(value.dtype).eps * (linear.in_features + averaged + 8) * 1.01
    weight = linear.weight.detach().double().abs()
    bias = 0.0 if linear.bias is None else linear.bias.detach().double().abs()
    norm = spectral_norm_upper_bound(weight)
    if value.ndim == 2 and value.shape[1] == linear.in_features:
        return _Own(unit * euclidean(value.double().abs() @ weight.t() + bias), unit * norm)
    own = 0.0 if linear.bias is None else float(linear.bias.detach().double().norm())
    return _Own(unit * (norm * euclidean(value).double() + own), unit * norm)


def _own(name: str, block: Any, value: Tensor, image: Tensor) -> _Own:
    """Rounding of one block that is no equilibrium layer."""
    eps = torch.finfo(value.dtype).eps
    if isinstance(block, nn.Linear | OrthogonalLinear):
        return _linear(block, value)
    if isinstance(block, ExplicitBlock):  # affine in the size of its input, whatever its direction
        probe = torch.zeros(2, block.in_features, dtype=value.dtype, device=value.device)
        probe[1, 0] = 1.0
        none, one = block.rounding(probe).tolist()
        return _Own(block.rounding(value).double(), one - none + 1e-15 * one)
    if any(is_plain(block, kind) for kind in _EXACT):
        return _Own()
    size = euclidean(value).double()
    own = _Own(4.0 * eps * euclidean(image).double(), 0.0, 4.0 * eps)  # a few roundings of each entry
    inside = constant = 0.0
    if isinstance(block, nn.BatchNorm1d | nn.BatchNorm2d):
        scale, _ = batch_norm_map(block)
        assert block.running_mean is not None  # or there would be no factor
        shift = (block.running_mean.double() * scale).norm()
        shift = shift + (0.0 if block.bias is None else block.bias.double().norm())
        pixels = value[0].numel() / len(scale) if len(value) else 1.0
        constant, inside = 8.0 * eps * float(shift) * pixels**0.5, 8.0 * eps * float(scale.abs().amax())
    elif isinstance(block, Elementwise):  # whose values may be differences of larger numbers
        inside, constant = 8.0 * eps, 8.0 * eps * value[0].numel() ** 0.5 if len(value) else 0.0
    elif isinstance(block, nn.Conv2d):
        unit = 0.5 * eps * (block.weight[0].numel() + 2) * 1.01
        if block.bias is not None:
            constant = unit * float(block.bias.double().norm()) * math.prod(image.shape[-2:]) ** 0.5
        inside = unit * factor_of(name, block).value
    elif isinstance(block, OrthogonalConv2d):
        terms = 2.0 * image_rounding(block.out_image) + 4.0 * block.free.shape[1] + 16.0
        bias = 0.0 if block.bias is None else float(block.bias.double().norm())
        constant, inside = eps * terms * bias * math.prod(block.out_image) ** 0.5, eps * terms
    elif isinstance(block, UnitPool2d):
        inside = (block.window**2 + 4.0) * eps
    elif isinstance(block, nn.AvgPool2d):  # sums as many terms as a window has
        sides = (block.kernel_size,) * 2 if isinstance(block.kernel_size, int) else block.kernel_size
        inside = (math.prod(sides) + 2.0) * eps
    return own.plus(_Own(constant + inside * size, inside))


def surely_misclassified(model: nn.Module | Network, x: Any, labels: Tensor) -> Tensor:
    """Which inputs some other class wins by more than the errors of the logits, boolean of shape (batch,)."""
    result = bounded_logits(model, x)
    logits = result.logits.double()
    own = logits.gather(1, labels[:, None])
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    # Two logits together err by at most √2 times the Euclidean error.
    return others - own[:, 0] > 2.0**0.5 * result.error

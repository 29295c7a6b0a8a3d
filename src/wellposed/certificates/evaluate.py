"""Logits with a bound on their error: what a certificate is applied to."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.certificates.lipschitz import blocks_of, factor_of
from wellposed.certificates.precision import check_precision
from wellposed.certificates.well_posedness import metric_guarantee
from wellposed.errors import CertificateError, InputError
from wellposed.guarantee import Guarantee
from wellposed.layers.blocks import has_hooks, is_plain
from wellposed.layers.contractive_cell import ContractiveCell
from wellposed.layers.conv_equilibrium import ConvEquilibrium
from wellposed.layers.equilibrium import Equilibrium
from wellposed.layers.explicit import ExplicitBlock
from wellposed.layers.frozen import frozen, frozen_image
from wellposed.layers.graph import ImplicitGraph
from wellposed.layers.graph_classifier import GraphClassifier, NodeSum
from wellposed.layers.group_sort import GroupSort
from wellposed.layers.implicit_layer import ImplicitLayer, runs_as_written
from wellposed.layers.normalize import batch_norm_map
from wellposed.layers.options import SolvingModule
from wellposed.layers.orthogonal_conv import OrthogonalConv2d, UnitPool2d
from wellposed.layers.orthogonal_linear import OrthogonalLinear
from wellposed.layers.prescribed_bound import ScaledLinear
from wellposed.norms import euclidean
from wellposed.operators.dense import Dense
from wellposed.operators.fourier import image_rounding
from wellposed.operators.graphs import Graphs, frobenius_norms
from wellposed.solvers.solution import Solution, Tolerance
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


class _Errors:
    """Errors on their way through the blocks: at the inputs themselves, and anywhere around them."""

    def __init__(self, count: int, device: torch.device) -> None:
        self.here = torch.zeros(count, dtype=torch.float64, device=device)
        self.elsewhere, self.growth = self.here.clone(), self.here.clone()
        self._reach = 1.0  # Lipschitz constant so far

    def through(self, factor: float, steps: list[_Step]) -> None:
        """Through a block of this Lipschitz constant, which is done in these steps."""
        slack, spread = self.here + self.elsewhere, self.growth
        here, elsewhere, growth = (factor * part for part in (self.here, self.elsewhere, self.growth))
        # By how much more than its distance the input of a step may differ from the one here, and how that grows with r.
        moved, rate = slack, self._reach + spread
        # What earlier steps have added to the output of a step already.
        added, adding = torch.zeros_like(slack), torch.zeros_like(slack)
        for step in steps:
            own = step.own
            at_hand = torch.zeros_like(here) + own.here if step.known is None else step.known
            # The output elsewhere differs by reach·r and by all errors, also by the one that is bounded here.
            out = step.reach * slack + at_hand + added
            out_rate = step.reach * (self._reach + spread) + adding
            anywhere = own.here + own.inside * moved + own.outside * out
            rising = own.inside * rate + own.outside * out_rate
            share = 1.0 / (1.0 - own.outside) if own.outside < 1.0 else math.inf
            # Without error 0·∞ would not be a number.
            anywhere, rising = (torch.where(part > 0.0, part * share, part) for part in (anywhere, rising))
            here, elsewhere = here + step.after * at_hand, elsewhere + step.after * anywhere
            growth = growth + step.after * rising
            moved, rate = out + anywhere, out_rate + rising
            added, adding = added + step.after * (at_hand + anywhere), adding + step.after * rising
        self.here, self.elsewhere, self.growth = (part * (1.0 + 1e-14) for part in (here, elsewhere, growth))
        self._reach = self._reach * factor


@torch.no_grad()
def bounded_logits(model: nn.Module, x: Any, *, forward: bool = False) -> BoundedLogits:
    """Evaluate a model by ``solve`` and carry the error bounds of its solves to the output.

    Errors of an equilibrium are multiplied by the Lipschitz constants of everything after it. A sample whose solve did not
    converge has an infinite error.

    Args:
        model: a chain of blocks known to `factor_of`.
        x: inputs, a tensor of shape (batch, ...); for a `GraphClassifier` a torch_geometric ``Data`` or ``Batch``, whose graphs
            are the samples, with the Frobenius norm of their node features.
        forward: whether ``elsewhere`` and ``growth`` are to hold for plain forward passes. ``solve`` checks in float64 that its
            result is within the tolerance; a forward pass stops by the same bound in its own precision, so that its rounding
            must be bounded beforehand, as in the worst case, which nearly never comes.
    """
    check_precision(model)
    graphs = Graphs.of(x) if isinstance(model, GraphClassifier) else None
    value, pooled = x if graphs is None else _features(model, x.x), graphs is None
    errors = _Errors(len(value) if graphs is None else graphs.count, value.device)
    solved = torch.ones_like(errors.here, dtype=torch.bool)
    for name, block in blocks_of(model):
        factor = factor_of(name, block).value
        if isinstance(block, ImplicitGraph | NodeSum):
            if graphs is None:
                raise CertificateError(f"{name}: needs graphs; certify a GraphClassifier")
            if forward:
                raise CertificateError(f"{name}: forward=True is not known for layers on graphs; leave it out")
            step, converged = _on_graphs(block, value, graphs, factor)
            steps, solved, pooled = [step], solved & converged, isinstance(block, NodeSum)
        elif not pooled:
            raise CertificateError(f"{name}: a {type(block).__name__} before the pooling is not known on graphs")
        elif isinstance(block, ImplicitLayer):
            steps, converged = _solved(name, block, value, factor, forward)
            solved &= converged
        else:
            image = block(value)
            steps = [_Step(_own(name, block, value, image), image, factor)]
        errors.through(factor, steps)
        value = steps[-1].image
    inputs = math.prod(x.shape[1:]) if graphs is None else x.x.shape[1]
    return BoundedLogits(value, torch.where(solved, errors.here, torch.inf), errors.elsewhere, errors.growth, inputs)


def _features(model: nn.Module, features: Tensor) -> Tensor:
    """Node features in the model's dtype, which must not change them: the constant is about what goes in."""
    value = features.to(next(model.parameters()).dtype)
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


def exact_copy(model: nn.Module) -> nn.Module:
    """The same network on the CPU in float64, in eval mode, with solves to nine digits.

    Layers on flat inputs, orthogonal matrices and circular convolutions keep the numbers that run; forming them again in float64
    would give others, off by the rounding of float32, as it does for other convolutions and cells.
    """
    exact = copy.deepcopy(model).cpu().double().eval()
    for name, module in model.named_modules():
        stored = _with_stored_numbers(module)
        if stored is not None and name:
            exact.set_submodule(name, stored.eval())
        elif stored is not None:
            exact = stored.eval()
    for part in exact.modules():
        if isinstance(part, SolvingModule):
            part.tolerance = Tolerance(1e-9, 1e-9)
    return exact


def _with_stored_numbers(module: nn.Module) -> nn.Module | None:
    """A copy of a layer with the very matrices that run; None where it computes other things than its class, or has none."""
    if is_plain(module, OrthogonalLinear) and not has_hooks(module):
        return _stored_orthogonal(module)
    if not isinstance(module, Equilibrium) or not runs_as_written(module) or has_hooks(module):
        return None
    if isinstance(module, ConvEquilibrium):
        return frozen_image(module)
    linear = is_plain(module.injection, nn.Linear) or is_plain(module.injection, ScaledLinear)
    return frozen(module) if linear and isinstance(module.operator(), Dense) else None


@torch.no_grad()
def _stored_orthogonal(module: OrthogonalLinear) -> OrthogonalLinear:
    """The map as it runs, as the base point of an exponential at zero: the product with the identity is exact."""
    found = OrthogonalLinear(
        module.in_features, module.out_features, parametrisation="exponential", bias=module.bias is not None, dtype=torch.float64
    )  # fmt: skip
    found.base.zero_()[: module.out_features, : module.in_features] = module.weight.double().cpu()
    if module.bias is not None and found.bias is not None:
        found.bias.copy_(module.bias.double().cpu())
    return found


def surely_misclassified(model: nn.Module, x: Any, labels: Tensor) -> Tensor:
    """Which inputs some other class wins by more than the errors of the logits, boolean of shape (batch,)."""
    result = bounded_logits(model, x)
    logits = result.logits.double()
    own = logits.gather(1, labels[:, None])
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    # Two logits together err by at most √2 times the Euclidean error.
    return others - own[:, 0] > 2.0**0.5 * result.error

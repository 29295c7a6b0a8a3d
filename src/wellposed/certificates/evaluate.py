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
from wellposed.layers.blocks import has_hooks, is_plain
from wellposed.layers.equilibrium import Equilibrium
from wellposed.layers.explicit import ExplicitBlock
from wellposed.layers.frozen import frozen
from wellposed.layers.group_sort import GroupSort
from wellposed.layers.implicit_layer import ImplicitLayer
from wellposed.layers.normalize import batch_norm_map
from wellposed.layers.orthogonal_conv import OrthogonalConv2d, UnitPool2d
from wellposed.layers.orthogonal_linear import OrthogonalLinear
from wellposed.layers.prescribed_bound import ScaledLinear
from wellposed.norms import euclidean
from wellposed.operators.dense import Dense
from wellposed.operators.fourier import image_rounding
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
        error: bound on ‖logits − true logits‖₂ through solver residuals, shape (batch,).
    """

    logits: Tensor
    error: Tensor


@torch.no_grad()
def bounded_logits(model: nn.Module, x: Tensor) -> BoundedLogits:
    """Evaluate a model and carry the error bounds of its solves to the output.

    Errors of an equilibrium are multiplied by the Lipschitz constants of everything after it. A sample whose solve
    stopped short of its tolerance has a larger error, and one whose solve failed an infinite one.

    Args:
        model: a chain of blocks known to `factor_of`.
        x: inputs, shape (batch, ...).
    """
    check_precision(model)
    error = torch.zeros(x.shape[0], dtype=torch.float64, device=x.device)
    value = x
    for name, block in blocks_of(model):
        error = error * factor_of(name, block).value
        if isinstance(block, ImplicitLayer):
            solution = block.solve(value)
            error = error + _solve_error(name, block, value, solution)
            if block.output is not None:
                error = error * spectral_norm_upper_bound(block.output.weight) + _rounding(block.output, solution.value)
                if block.direct is not None:
                    error = error + _rounding(block.direct, value)
            output = block.readout(solution.value, value)
            if block.direct is not None:  # one more addition
                error = error + torch.finfo(output.dtype).eps * euclidean(output)
            value = output
        else:
            if isinstance(block, nn.Linear | OrthogonalLinear):
                error = error + _rounding(block, value)
            if isinstance(block, ExplicitBlock):
                error = error + block.rounding(value)
            if isinstance(block, nn.BatchNorm1d | nn.BatchNorm2d):
                scale, _ = batch_norm_map(block)
                assert block.running_mean is not None  # or there would be no factor
                constant = (block.running_mean.double() * scale).norm()
                constant = constant + (0.0 if block.bias is None else block.bias.double().norm())
                each = scale.reshape(-1, *[1] * (value.ndim - 2))
                size = euclidean(value.double() * each) + constant * (value[0].numel() / len(scale)) ** 0.5
                error = error + 8.0 * torch.finfo(value.dtype).eps * size
            if isinstance(block, nn.Conv2d):
                unit = 0.5 * torch.finfo(value.dtype).eps * (block.weight[0].numel() + 2)
                error = error + 1.01 * unit * factor_of(name, block).value * euclidean(value).double()
                if block.bias is not None:
                    rows, columns = block(value[:1]).shape[-2:]
                    error = error + 1.01 * unit * float(block.bias.double().norm()) * (rows * columns) ** 0.5
            if isinstance(block, OrthogonalConv2d):
                terms = 2.0 * image_rounding(block.out_image) + 4.0 * block.free.shape[1] + 16.0
                own = 0.0 if block.bias is None else float(block.bias.double().norm())
                size = euclidean(value).double() + own * (block.out_image[0] * block.out_image[1]) ** 0.5
                error = error + torch.finfo(value.dtype).eps * terms * size
            if isinstance(block, UnitPool2d):
                error = error + (block.window**2 + 4.0) * torch.finfo(value.dtype).eps * euclidean(value)
            if isinstance(block, nn.AvgPool2d):  # sums as many terms as a window has
                terms = (
                    float(block.kernel_size) ** 2
                    if isinstance(block.kernel_size, int)
                    else math.prod(block.kernel_size)
                )
                error = error + (terms + 2.0) * torch.finfo(value.dtype).eps * euclidean(value)
            value = block(value)
            if not isinstance(block, _EXACT):  # a few roundings of each entry
                error = error + 4.0 * torch.finfo(value.dtype).eps * euclidean(value)
    return BoundedLogits(value, error)


def _solve_error(name: str, block: ImplicitLayer, value: Tensor, solution: Solution[Tensor]) -> Tensor:
    """Bound on the error of each solve; for a layer that promises nothing, by a metric that proves it well posed."""
    if solution.error_bound is not None:
        return solution.error_bound.double()
    assert isinstance(block, Equilibrium)
    exact = frozen(block, metric_guarantee(name, block)).solve(value.double().cpu())
    assert exact.error_bound is not None
    return (euclidean(exact.value - solution.value.double().cpu()) * (1.0 + 1e-12) + exact.error_bound).to(value.device)


def _rounding(linear: Any, value: Tensor) -> Tensor:
    """Euclidean rounding error of ``linear(value)`` per sample: γ_n of a product of n terms, plus the bias."""
    unit = 0.5 * torch.finfo(value.dtype).eps * (linear.in_features + 2)
    bias = 0.0 if linear.bias is None else float(linear.bias.norm())
    return unit * (float(linear.weight.norm()) * euclidean(value).double() + bias) * 1.01


def exact_copy(model: nn.Module) -> nn.Module:
    """The same network on the CPU in float64, in eval mode, with solves to nine digits.

    Layers on flat inputs keep the W, U and W_o that run; forming them again in float64 would give others, off by the rounding of
    float32, as it does for convolutions and cells.
    """
    exact = copy.deepcopy(model).cpu().double().eval()
    for name, module in model.named_modules():
        if isinstance(module, Equilibrium) and _is_flat(module):
            if not name:
                return frozen(module).eval()
            exact.set_submodule(name, frozen(module).eval())
    for part in exact.modules():
        if isinstance(part, ImplicitLayer):
            part.tolerance = Tolerance(1e-9, 1e-9)
    return exact


def _is_flat(module: Equilibrium) -> bool:
    """Whether a layer is one that `frozen` can copy, and computes what its class says."""
    if type(module).forward is not ImplicitLayer.forward or has_hooks(module):
        return False
    linear = is_plain(module.injection, nn.Linear) or is_plain(module.injection, ScaledLinear)
    return linear and isinstance(module.operator(), Dense)


def surely_misclassified(model: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    """Which inputs some other class wins by more than the errors of the logits, boolean of shape (batch,)."""
    result = bounded_logits(model, x)
    logits = result.logits.double()
    own = logits.gather(1, labels[:, None])
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    # Two logits together err by at most √2 times the Euclidean error.
    return others - own[:, 0] > 2.0**0.5 * result.error

"""What single blocks round, at most, in the precision that they run in."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.layers.equilibrium import Equilibrium
from wellposed.layers.explicit import ExplicitBlock
from wellposed.layers.group_sort import GroupSort
from wellposed.layers.orthogonal_conv import OrthogonalConv2d, UnitPool2d
from wellposed.layers.orthogonal_linear import OrthogonalLinear
from wellposed.layers.plain import is_plain
from wellposed.maps.batch_norm import batch_norm_map
from wellposed.network.constants import factor_of
from wellposed.network.pointwise import Elementwise, Reshape
from wellposed.network.propagation import Own
from wellposed.numerics.euclidean import euclidean, product_underflow
from wellposed.numerics.verified import spectral_norm_upper_bound
from wellposed.operators.dense import Dense
from wellposed.operators.fourier import image_rounding

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


def own_rounding(name: str, block: Any, value: Tensor, image: Tensor) -> Own:
    """Rounding of one block that is no equilibrium layer, with what underflow takes, subnormal numbers kept or not."""
    own = _relative_rounding(name, block, value, image)
    if not len(value):
        return own
    hidden = block.bias.numel() if isinstance(block, ExplicitBlock) else 0
    entries = max(image[0].numel(), hidden)
    terms = max(value[0].numel(), entries) + 16  # more products than any entry is a sum of
    norm = factor_of(name, block).value
    none = torch.zeros(1, dtype=torch.float64, device=value.device)
    args = (value.dtype, entries, terms, value[0].numel(), norm)
    absolute, one = (float(product_underflow(*args, none + size)) for size in (0.0, 1.0))
    inner = 1.0
    if isinstance(block, ExplicitBlock):  # a map behind a map
        inner += float(torch.linalg.matrix_norm(block.maps()[1].double()))
    lost = Own(inner * (absolute + (one - absolute) * euclidean(value).double()), inner * (one - absolute))
    return own.plus(lost)


def _relative_rounding(name: str, block: Any, value: Tensor, image: Tensor) -> Own:
    """Rounding of a block relative to the sizes of its numbers, without what underflow takes."""
    eps = torch.finfo(value.dtype).eps
    if isinstance(block, nn.Linear | OrthogonalLinear):
        return linear_rounding(block, value)
    if isinstance(block, ExplicitBlock):  # affine in the size of its input, whatever its direction
        probe = torch.zeros(2, block.in_features, dtype=value.dtype, device=value.device)
        probe[1, 0] = 1.0
        none, one = block.rounding(probe).tolist()
        return Own(block.rounding(value).double(), one - none + 1e-15 * one)
    if any(is_plain(block, kind) for kind in _EXACT):
        return Own()
    size = euclidean(value).double()
    own = Own(4.0 * eps * euclidean(image).double(), 0.0, 4.0 * eps)  # a few roundings of each entry
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
    return own.plus(Own(constant + inside * size, inside))


def linear_rounding(linear: Any, value: Tensor) -> Own:
    """Rounding of a linear map: γ_n of a product of n terms, plus the bias.

    Output maps of images may average over windows first, which does not expand, and whose sums round too.
    """
    averaged = value[0].numel() // max(linear.in_features, 1) if len(value) else 1
    unit = 0.5 * torch.finfo(value.dtype).eps * (linear.in_features + averaged + 8) * 1.01
    weight = linear.weight.detach().double().abs()
    bias = 0.0 if linear.bias is None else linear.bias.detach().double().abs()
    norm = spectral_norm_upper_bound(weight)
    if value.ndim == 2 and value.shape[1] == linear.in_features:
        return Own(unit * euclidean(value.double().abs() @ weight.t() + bias), unit * norm)
    own = 0.0 if linear.bias is None else float(linear.bias.detach().double().norm())
    return Own(unit * (norm * euclidean(value).double() + own), unit * norm)


def affine_rounding(block: Equilibrium, value: Tensor, state: Tensor) -> Own:
    """Rounding of one evaluation of Ux + b and of σ(Wz + Ux + b) in the working precision, in units of the offset."""
    driven, operator = block.injection.numbers(), block.operator()
    eps = torch.finfo(state.dtype).eps
    absolute, cancelled = 0.0, block.injection.cancelled()
    if len(state) and not block.activation.homogeneous:
        absolute = 8.0 * eps * float(state[0].numel()) ** 0.5
    if driven.as_matrix() is not None and isinstance(operator, Dense):
        unit = 0.5 * eps * (driven.terms + block.state_features + 8) * 1.01
        matrix = operator.dense().detach().double().abs()
        sizes = driven.absolute(value.double().abs()) + state.double().abs() @ matrix.t() + driven.bias_size
        norms = driven.absolute_norm(), spectral_norm_upper_bound(matrix)
        own = unit * (euclidean(sizes) + cancelled) + 16.0 * eps * euclidean(state).double() + absolute
        return Own(own, unit * norms[0], unit * norms[1] + 16.0 * eps)
    constant = float(euclidean(block.injection(torch.zeros_like(value[:1]))).double()) if len(value) else 0.0
    terms = driven.terms + 16.0
    one = torch.ones(1, dtype=torch.float64)
    by_state, by_offset = (float(operator.rounding(*pair)) for pair in ((one, 0.0 * one), (0.0 * one, one)))
    inside, outside = eps * terms * driven.absolute_norm() + by_offset * block.injection_norm(), by_state + 16.0 * eps
    still = absolute + (eps * terms + by_offset) * constant + eps * terms * cancelled
    here = still + inside * euclidean(value).double() + outside * euclidean(state).double()
    return Own(here, inside, outside)

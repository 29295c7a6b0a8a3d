"""Euclidean Lipschitz constants of models, composed block by block with verified norms.

An equilibrium layer contributes ‖U‖₂ times the Lipschitz constant that its guarantee gives for the offset; for strong
monotonicity that is Pabbaraju, Winston & Kolter (ICLR 2021), Theorem 1: ‖U‖₂/m.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wellposed.errors import CertificateError
from wellposed.layers.equilibrium import Equilibrium
from wellposed.layers.explicit import ExplicitBlock
from wellposed.layers.frozen import frozen
from wellposed.layers.graph import ImplicitGraph
from wellposed.layers.graph_classifier import NodeSum
from wellposed.layers.group_sort import GroupSort
from wellposed.layers.implicit_layer import ImplicitLayer
from wellposed.layers.normalize import Normalize
from wellposed.layers.orthogonal_conv import OrthogonalConv2d, UnitPool2d
from wellposed.layers.orthogonal_linear import OrthogonalLinear
from wellposed.layers.plain import is_plain
from wellposed.maps.batch_norm import batch_norm_map
from wellposed.network.branches import Branches, summed_constants
from wellposed.network.metric import metric_guarantee
from wellposed.network.pointwise import Elementwise, Rescale, Reshape, Shift
from wellposed.numerics.outward import next_up
from wellposed.numerics.verified import spectral_norm_upper_bound, to_float64

# Nonexpansive whatever they are given, and without weights; dropout in eval mode.
_NONEXPANSIVE = (
    nn.Flatten,
    nn.Unflatten,
    nn.Identity,
    nn.ReLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.Hardtanh,
    nn.Dropout,
    GroupSort,
    Shift,
    Reshape,
)


@dataclass(frozen=True)
class Factor:
    """One block of a composition.

    Attributes:
        block: the block's name in the model.
        value: upper bound of its Euclidean Lipschitz constant.
        reason: the theorem or norm that gives it.
    """

    block: str
    value: float
    reason: str


def factor_of(name: str, block: nn.Module) -> Factor:
    """Upper bound of one block's Euclidean Lipschitz constant, rounding included.

    Raises:
        CertificateError: nothing is known about such a block, or its weights fail its theorem.
    """
    if is_plain(block, nn.Linear) or is_plain(block, OrthogonalLinear):
        return Factor(name, spectral_norm_upper_bound(block.weight), "‖W‖₂, verified Cholesky")
    if is_plain(block, nn.Conv2d):
        return Factor(
            name, _convolution_norm(name, block), "geometric mean of the sums over taps, for images of any size"
        )
    if is_plain(block, OrthogonalConv2d):
        return Factor(name, next_up(1.0 + block.norm_excess()), "largest singular value at any frequency")
    if is_plain(block, UnitPool2d):
        return Factor(name, 1.0, "orthonormal rows")
    if isinstance(block, Branches):
        return Factor(name, branch_constant(block), "sums of branches, each the product of its blocks' constants")
    if isinstance(block, Elementwise | Rescale):
        return Factor(name, block.lipschitz(), "largest slope" if isinstance(block, Elementwise) else "largest factor")
    if isinstance(block, ExplicitBlock):
        return Factor(name, block.lipschitz(), f"{type(block).__name__} layer, verified Cholesky")
    if is_plain(block, ImplicitGraph):
        return Factor(name, *block.lipschitz())
    if is_plain(block, NodeSum):
        if not block.by_root:
            raise CertificateError(f"{name}: a sum over nodes grows with the graph; certified is NodeSum(by_root=True)")
        return Factor(name, 1.0, "orthonormal rows, for every graph")
    if is_plain(block, Normalize):
        return Factor(name, next_up(1.0 / float(block.std.min())), "1/min std")
    if isinstance(block, ImplicitLayer):
        promised = metric_guarantee(name, block) if isinstance(block, Equilibrium) else None
        if promised is not None and isinstance(block, Equilibrium):
            block = frozen(block, promised)
        return Factor(name, *block.lipschitz())
    if is_plain(block, nn.AvgPool2d):
        return Factor(
            name, _pooling_norm(name, block), "average over disjoint windows: one over the root of their size"
        )
    if is_plain(block, nn.MaxPool2d):
        return Factor(name, _max_pooling_norm(name, block), "root of how many windows share a value")
    if is_plain(block, nn.BatchNorm1d) or is_plain(block, nn.BatchNorm2d):
        scale, _ = batch_norm_map(block)
        return Factor(name, float(scale.abs().max()) * (1.0 + 1e-12), "largest scale of the batch normalisation")
    if is_nonexpansive(block):
        return Factor(name, 1.0, "nonexpansive")
    raise CertificateError(f"{name}: no Lipschitz constant is known for a {type(block).__name__}")


def branch_constant(block: Branches) -> float:
    """Lipschitz constant of branches: products along each, and sums where they meet.

    Raises:
        CertificateError: nothing is known about one of the blocks.
    """
    return block.fold(1.0, lambda name, part, before: next_up(before * factor_of(name, part).value), summed_constants)


def is_nonexpansive(block: nn.Module) -> bool:
    """Whether a block is 1-Lipschitz by its class alone, in eval mode."""
    return any(is_plain(block, kind) for kind in _NONEXPANSIVE)


def _pooling_norm(name: str, block: nn.AvgPool2d) -> float:
    """Norm of an average over disjoint windows of r values: 1/√r."""
    kernel = pooling_window(block)
    if kernel is None:
        raise CertificateError(f"{name}: average pooling is certified for disjoint windows without padding only")
    return next_up((kernel[0] * kernel[1]) ** -0.5)


def pooling_window(block: nn.AvgPool2d) -> tuple[int, int] | None:
    """Rows and columns of the windows of an average over disjoint ones, or None for any other pooling."""
    kernel, stride, padding = (pair(part) for part in (block.kernel_size, block.stride, block.padding))
    if not is_plain(block, nn.AvgPool2d) or kernel != stride or padding != (0, 0):
        return None
    return None if block.ceil_mode or block.divisor_override is not None else kernel


def pair(size: Any) -> tuple[int, int]:
    """What torch takes for a size of two dimensions."""
    parts = (size,) if isinstance(size, int) else tuple(size)
    return int(parts[0]), int(parts[-1])


def _convolution_norm(name: str, block: nn.Conv2d) -> float:
    """√(‖S‖₁‖S‖_∞), S the sums of absolute values over taps: an upper bound for every stride, zero padding and image size."""
    if block.groups != 1 or block.padding_mode != "zeros":
        raise CertificateError(f"{name}: convolutions are certified with zero padding and one group only")
    taps = block.weight.detach().flatten(2)
    sums = torch.from_numpy(to_float64(taps.flatten(1), name)).reshape(taps.shape).abs().sum(2)
    return float((sums.sum(0).amax() * sums.sum(1).amax()).sqrt()) * (1.0 + 1e-12)


def _max_pooling_norm(name: str, block: nn.MaxPool2d) -> float:
    """Root of the largest number of windows that a value is in: each of them moves by at most the largest change inside."""
    kernel, stride, dilation = (pair(part) for part in (block.kernel_size, block.stride, block.dilation))
    if dilation != (1, 1) or block.return_indices:
        raise CertificateError(f"{name}: maximum pooling is certified without dilation and indices only")
    shared = math.prod(-(-taps // step) for taps, step in zip(kernel, stride, strict=True))
    return next_up(shared**0.5)


def product(factors: list[Factor]) -> float:
    """The product of the factors, rounded up."""
    value = 1.0
    for factor in factors:
        value = next_up(value * factor.value)
    return value


def pair_constants(head: Tensor, before: float) -> Tensor:
    """Lipschitz constants of the margins y_i − y_j: ``‖(e_i − e_j)ᵀ·head‖₂ · before``, rounded up.

    Args:
        head: weight of the last linear layer, shape (classes, features).
        before: Lipschitz constant of everything before it.

    Returns:
        Shape (classes, classes), float64; zero on the diagonal.
    """
    rows = torch.from_numpy(to_float64(head, "head"))
    largest = float(rows.abs().max()) or 1.0
    _, exponent = math.frexp(largest)
    scaled = torch.from_numpy(np.ldexp(rows.numpy(), -exponent))
    difference = (scaled[:, None, :] - scaled[None, :, :]).norm(dim=2)
    difference = difference * (1.0 + (rows.shape[1] + 8) * 2.0**-52)
    # A pair of equal rows keeps a positive constant only through underflow; add what scaling can have lost.
    difference = torch.where(difference > 0, difference + rows.shape[1] * 2.0**-1000, difference)
    # The power of two comes last: numbers that become subnormal round once, which one step upwards covers.
    mantissa, power = math.frexp(before) if math.isfinite(before) else (before, 0)
    found = torch.from_numpy(np.ldexp((difference * mantissa * (1.0 + 2.0**-50)).numpy(), exponent + power))
    found = torch.where(difference > 0, found, 0.0)
    # The product may underflow, too.
    return torch.where(difference > 0, torch.nextafter(found, torch.full_like(found, math.inf)), found)

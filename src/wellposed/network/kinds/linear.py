"""Linear maps of flat inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from wellposed.errors import CertificateError
from wellposed.layers.orthogonal_linear import OrthogonalLinear
from wellposed.maps.affine import Matrix
from wellposed.maps.checks import check_map
from wellposed.maps.linear import LinearMap
from wellposed.network.deployed import DeployedGraph, Edge
from wellposed.network.entrywise import EntrywiseStep, LinearStep
from wellposed.network.kinds.block import Block, Interval, Shape, kind_of
from wellposed.network.propagation import Own
from wellposed.numerics.euclidean import euclidean
from wellposed.numerics.norm import Norm
from wellposed.numerics.outward import enlarged_sum, next_up
from wellposed.numerics.verified import spectral_norm_upper_bound, to_float64


@kind_of(nn.Linear, LinearMap, OrthogonalLinear)
class LinearBlock(Block):
    """``y = Wx + b``, W of shape (outputs, inputs)."""

    @override
    def require_usable(self) -> None:
        require_weight(self, 2)
        check_map(self.name, self.module, self.module.weight.shape[1], self.module.weight.shape[0])

    @override
    def constant(self, norm: Norm) -> tuple[float, str]:
        if norm == "2":
            return spectral_norm_upper_bound(self.module.weight), "‖W‖₂, verified Cholesky"
        matrix = torch.from_numpy(to_float64(self.module.weight, f"{self.name}.weight")).abs()
        axis = 1 if norm == "inf" else 0
        return next_up(
            float(enlarged_sum(matrix.sum(axis).amax(), matrix.shape[axis]))
        ), f"largest sum of |W|, ‖W‖_{norm}"

    @override
    def relative_rounding(self, value: Tensor, image: Tensor) -> Own:
        return linear_rounding(self.module, value)

    @property
    def _numbers(self) -> Matrix:
        return Matrix.of(self.module.weight, self.module.bias).cpu()

    @override
    def interval(self, lower: Tensor, upper: Tensor) -> Interval:
        return self._numbers.interval(lower, upper)

    @override
    def interval_of_balls(self, centre: Tensor, radius: Tensor) -> Interval | None:
        return self._numbers.interval_of_balls(centre, radius) if centre.ndim == 2 else None

    @override
    def margins(self, lower: Tensor, upper: Tensor, labels: Tensor) -> Interval:
        return self._numbers.margins(lower, upper, labels) if lower.ndim == 2 else super().margins(lower, upper, labels)

    @property
    @override
    def linear_map(self) -> tuple[Tensor, Tensor | None] | None:
        bias = self.module.bias
        return self.module.weight.detach().double().cpu(), None if bias is None else bias.detach().double().cpu()

    @override
    def entrywise(self) -> list[EntrywiseStep] | None:
        return [LinearStep(self.module.weight.detach().double().cpu())]

    @property
    @override
    def likely_shape(self) -> Shape | None:
        return (self.module.weight.shape[1],)

    @override
    def deploy(self, graph: DeployedGraph, edge: Edge) -> Edge:
        return linear(graph, edge, self.module.weight, self.module.bias)


def linear(graph: DeployedGraph, edge: Edge, weight: Tensor, bias: Tensor | None) -> Edge:
    """A linear map of the last dimension, appended to a deployed network.

    Args:
        graph: which is written.
        edge: its input.
        weight: shape (outputs, inputs).
        bias: shape (outputs,); None for zero.
    """
    shift = weight.new_zeros(len(weight)) if bias is None else bias
    return graph.call("Linear", edge, shape=(*edge.shape[:-1], len(weight)), weight=weight, bias=shift)


def require_weight(block: Block, dimensions: int) -> None:
    """Refuse a weight of another kind than the map's.

    Args:
        block: with ``weight``.
        dimensions: that the weight must have.
    """
    weight: Tensor = block.module.weight
    if weight.ndim != dimensions or not weight.numel() or not weight.is_floating_point():
        raise CertificateError(f"{block.name}.weight: has shape {tuple(weight.shape)} and dtype {weight.dtype}")


def linear_rounding(linear: Any, value: Tensor) -> Own:
    """Rounding of a linear map: γ_n of a product of n terms, plus the bias.

    Output maps of images may average over windows first, which does not expand, and whose sums round too.

    Args:
        linear: the map, with the attributes of `torch.nn.Linear`.
        value: its inputs, shape (batch, ...).
    """
    averaged = value[0].numel() // max(linear.in_features, 1) if len(value) else 1
    unit = 0.5 * torch.finfo(value.dtype).eps * (linear.in_features + averaged + 8) * 1.01
    weight = linear.weight.detach().double().abs()
    bias = 0.0 if linear.bias is None else linear.bias.detach().double().abs()
    norm = spectral_norm_upper_bound(weight)
    if value.ndim == 2 and value.shape[1] == linear.in_features:
        return Own(unit * euclidean(value.double().abs() @ weight.t() + bias), unit * norm)
    # Of a map that acts on rows there are as many biases as rows.
    own = 0.0 if linear.bias is None else averaged**0.5 * float(linear.bias.detach().double().norm())
    return Own(unit * (norm * euclidean(value).double() + own), unit * norm)

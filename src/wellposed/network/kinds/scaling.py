"""Products and sums with constants, and normalisations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from wellposed.errors import CertificateError
from wellposed.layers.normalize import Normalize
from wellposed.maps.batch_norm import batch_norm_map, require_fixed
from wellposed.network.deployed import DeployedGraph, Edge
from wellposed.network.kinds.block import Block, Interval, kind_of
from wellposed.network.kinds.elementwise import few_roundings
from wellposed.network.pointwise import Rescale, Shift
from wellposed.network.propagation import Own
from wellposed.numerics.euclidean import euclidean
from wellposed.numerics.norm import Norm
from wellposed.numerics.outward import TINY, above, below, enlarged, next_up, rounding_constant


class _Scaled(Block):
    """A block whose entries come out of a few operations each."""

    @override
    def relative_rounding(self, value: Tensor, image: Tensor) -> Own:
        return few_roundings(value, image)


@kind_of(Rescale)
class RescaleBlock(_Scaled):
    """Products with a constant, or quotients."""

    @override
    def constant(self, norm: Norm) -> tuple[float, str]:
        return self.module.lipschitz(), "largest factor"

    @override
    def interval(self, lower: Tensor, upper: Tensor) -> Interval:
        scale = self.module.scale.detach().double().cpu()
        first, second = (end / scale if self.module.divide else end * scale for end in (lower, upper))
        return below(torch.minimum(first, second)), above(torch.maximum(first, second))

    @override
    def deploy(self, graph: DeployedGraph, edge: Edge) -> Edge:
        scale: Tensor = self.module.scale
        none = torch.zeros_like(scale)
        if self.module.divide:
            return graph.call("Normalize", edge, shape=edge.shape, mean=none, std=scale)
        return graph.call("Affine", edge, shape=edge.shape, scale=scale, shift=none)


@kind_of(Shift)
class ShiftBlock(_Scaled):
    """Sums with a constant."""

    contracts_entries = nonexpansive = True

    @override
    def constant(self, norm: Norm) -> tuple[float, str]:
        return 1.0, "nonexpansive"

    @override
    def interval(self, lower: Tensor, upper: Tensor) -> Interval:
        shift = self.module.shift.detach().double().cpu()
        return below(lower + shift), above(upper + shift)

    @override
    def deploy(self, graph: DeployedGraph, edge: Edge) -> Edge:
        shift: Tensor = self.module.shift
        return graph.call("Affine", edge, shape=edge.shape, scale=torch.ones_like(shift), shift=shift)


@kind_of(Normalize)
class NormalizeBlock(_Scaled):
    """``(x − mean)/std`` by channel."""

    increasing = True

    @override
    def constant(self, norm: Norm) -> tuple[float, str]:
        return next_up(1.0 / float(self.module.std.min())), "1/min std"

    @override
    def interval(self, lower: Tensor, upper: Tensor) -> Interval:
        mean, std = (part.detach().double().cpu() for part in (self.module.mean, self.module.std))
        return below(below(lower - mean) / std), above(above(upper - mean) / std)

    @override
    def deploy(self, graph: DeployedGraph, edge: Edge) -> Edge:
        return graph.call("Normalize", edge, shape=edge.shape, mean=self.module.mean, std=self.module.std)

    @override
    def normalisation(self, inputs: int, behind: Sequence[Block] | None) -> tuple[Tensor, Tensor] | None:
        module: Normalize = self.module
        shaping = [block for block in behind or () if block.only_shapes and not block.is_identity]
        flat = bool(shaping) and shaping[-1].makes_vectors  # and nothing takes the vector apart again
        if behind is not None and not module.is_uniform and not flat:
            raise CertificateError(f"{self.name}: channels differ, and no Flatten() makes one vector of each image")
        return module.spread(inputs)

    @property
    @override
    def channels(self) -> int | None:
        return len(self.module.mean)


@kind_of(nn.BatchNorm1d, nn.BatchNorm2d)
class BatchNormBlock(_Scaled):
    """Batch normalisation in eval mode: a fixed scale and shift by channel."""

    @override
    def require_usable(self) -> None:
        require_fixed(self.name, self.module)

    @override
    def constant(self, norm: Norm) -> tuple[float, str]:
        scale, _ = batch_norm_map(self.module)
        return enlarged(float(scale.abs().max()), 4), "largest scale of the batch normalisation"

    @property
    @override
    def entry_scale(self) -> Tensor | None:
        return batch_norm_map(self.module)[0].cpu()

    @override
    def interval(self, lower: Tensor, upper: Tensor) -> Interval:
        each = (-1, *[1] * (lower.ndim - 2))
        scale, shift = (part.cpu().reshape(each) for part in batch_norm_map(self.module))
        moved = (self.module.running_mean.double().cpu().reshape(each) * scale).abs()
        first, second = (end * scale + shift for end in (lower, upper))
        # The scale rounds five times, its products and the shift three times more; the shift is a difference.
        size = scale.abs() * torch.maximum(lower.abs(), upper.abs()) + 2.0 * moved + shift.abs()
        error = rounding_constant(16) * size + TINY
        return torch.minimum(first, second) - error, torch.maximum(first, second) + error

    @override
    def relative_rounding(self, value: Tensor, image: Tensor) -> Own:
        eps, (scale, _) = torch.finfo(value.dtype).eps, batch_norm_map(self.module)
        shift = (self.module.running_mean.double() * scale).norm()
        shift = shift + (0.0 if self.module.bias is None else self.module.bias.double().norm())
        pixels = value[0].numel() / len(scale) if len(value) else 1.0
        constant, inside = 8.0 * eps * float(shift) * pixels**0.5, 8.0 * eps * float(scale.abs().amax())
        own = Own(constant + inside * euclidean(value).double(), inside)
        return super().relative_rounding(value, image).plus(own)

    @override
    def deploy(self, graph: DeployedGraph, edge: Edge) -> Edge:
        return batch_normalised(graph, edge, self.module)


def batch_normalised(graph: DeployedGraph, edge: Edge, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> Edge:
    """A batch normalisation in eval mode, appended to a deployed network.

    Args:
        graph: which is written.
        edge: its input, with the channels first.
        norm: the normalisation.
    """
    assert norm.running_mean is not None and norm.running_var is not None
    weight = torch.ones_like(norm.running_mean) if norm.weight is None else norm.weight
    bias = torch.zeros_like(norm.running_mean) if norm.bias is None else norm.bias
    each = (-1, *[1] * (len(edge.shape) - 1))
    mean, variance, scale, shift = (
        part.detach().reshape(each) for part in (norm.running_mean, norm.running_var, weight, bias)
    )
    numbers = {"mean": mean, "variance": variance, "weight": scale, "bias": shift}
    return graph.call("BatchNormalized", edge, shape=edge.shape, **numbers, epsilon=float(norm.eps))

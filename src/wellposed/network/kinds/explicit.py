"""Explicit layers with a proved constant: ``y = S x + G σ(H x + b)``."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.layers import SLL, Residual, Sandwich
from wellposed.layers.explicit import ExplicitBlock
from wellposed.maps.affine import Matrix
from wellposed.network.deployed import DeployedGraph, Edge
from wellposed.network.kinds.block import Block, Interval, Shape, kind_of
from wellposed.network.propagation import Own
from wellposed.numerics.norm import Norm
from wellposed.numerics.outward import above, below


@kind_of(ExplicitBlock, inherited=True)
class ExplicitLayerBlock(Block):
    """A layer that says its constant and its rounding itself; see `wellposed.layers.explicit.ExplicitBlock`."""

    @override
    def constant(self, norm: Norm) -> tuple[float, str]:
        if norm != "2":
            return super().constant(norm)
        return self.module.lipschitz(), f"{self.kind} layer, verified Cholesky"

    @override
    def relative_rounding(self, value: Tensor, image: Tensor) -> Own:
        # A layer's rounding is affine in the size of its input, whatever its direction.
        probe = torch.zeros(2, self.module.in_features, dtype=value.dtype, device=value.device)
        probe[1, 0] = 1.0
        none, one = self.module.rounding(probe).tolist()
        return Own(self.module.rounding(value).double(), one - none + 1e-15 * one)

    @override
    def lost(self, value: Tensor, image: Tensor, hidden: int = 0, inner: float = 1.0) -> Own:
        outward = float(torch.linalg.matrix_norm(self.module.maps()[1].double()))  # a map behind a map
        return super().lost(value, image, self.module.bias.numel(), 1.0 + outward)

    def _numbers(self) -> tuple[Matrix, Matrix]:
        """H with b, and G."""
        inner, outer, _ = self.module.maps()
        return Matrix.of(inner, self.module.bias).cpu(), Matrix.of(outer, None).cpu()

    def _behind(self, inner: Interval, lower: Tensor, upper: Tensor) -> Interval:
        """Bounds of S x + G σ(v) from bounds of v, and of x."""
        least, largest = self._numbers()[1].interval(*(end.clamp_min(0.0) for end in inner))
        return (below(least + lower), above(largest + upper)) if self.module.residual else (least, largest)

    @override
    def interval(self, lower: Tensor, upper: Tensor) -> Interval:
        return self._behind(self._numbers()[0].interval(lower, upper), lower, upper)

    @override
    def interval_of_balls(self, centre: Tensor, radius: Tensor) -> Interval | None:
        inner = self._numbers()[0].interval_of_balls(centre, radius)
        return self._behind(inner, below(centre - radius[:, None]), above(centre + radius[:, None]))

    @property
    @override
    def likely_shape(self) -> Shape | None:
        return (self.module.in_features,)


@kind_of(Sandwich)
class SandwichBlock(ExplicitLayerBlock):
    """``‖[ΨH; Ψ⁻¹Gᵀ]‖₂²/2`` with S = 0."""

    @override
    def deploy(self, graph: DeployedGraph, edge: Edge) -> Edge:
        return _explicit("Sandwich", self.module, graph, edge, self.module.log_scale.detach().double().exp())


@kind_of(SLL)
class SLLBlock(ExplicitLayerBlock):
    """``max(1, ‖√T H‖₂² − 1)`` with S = I, and what rounding G = −HᵀT adds to it."""

    @override
    def deploy(self, graph: DeployedGraph, edge: Edge) -> Edge:
        return _explicit("Residual", self.module, graph, edge, self.module.maps()[2])


@kind_of(Residual)
class ResidualBlock(ExplicitLayerBlock):
    """``1 + ‖G‖₂‖H‖₂`` with S = I."""

    @override
    def deploy(self, graph: DeployedGraph, edge: Edge) -> Edge:
        return _explicit("Residual", self.module, graph, edge, torch.zeros(len(self.module.bias), device="cpu"))


def _explicit(function: str, layer: ExplicitBlock, graph: DeployedGraph, edge: Edge, scale: Tensor) -> Edge:
    """A layer, appended to a deployed network, with the scale of its hidden units that proves its constant."""
    inner, outer, _ = layer.maps()
    none = torch.zeros(len(outer), device="cpu")
    found = graph.call(function, edge, shape=(*edge.shape[:-1], len(outer)), H=inner, b=layer.bias, G=outer, c=none)
    graph.prove(found, scale=scale)
    return found

"""Explicit layers with a proved constant: ``y = S x + G σ(H x + b)``."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.layers.explicit import ExplicitBlock
from wellposed.network.kinds.block import Block, Shape, kind_of
from wellposed.network.propagation import Own
from wellposed.numerics.norm import Norm


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

    @property
    @override
    def likely_shape(self) -> Shape | None:
        return (self.module.in_features,)

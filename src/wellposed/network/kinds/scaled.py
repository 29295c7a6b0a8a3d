"""Equilibria of images in a diagonal metric: ``z = σ(Wz + Ψ(Ũx) + b)``, with ``y = W_o P z + b_o`` of a prescribed bound."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.activations import name_of
from wellposed.layers.conv_lben import ConvLBEN
from wellposed.maps.circular import CircularInjection
from wellposed.maps.pooled import PooledLinear
from wellposed.network.deployed import DeployedGraph, Edge, circular_patches
from wellposed.network.kinds.block import kind_of
from wellposed.network.kinds.circular import interior_mask, turns
from wellposed.network.kinds.equilibrium import STEPS, EquilibriumBlock, refining, stopping
from wellposed.network.kinds.linear import linear
from wellposed.network.kinds.pooling import averaged
from wellposed.numerics.linear_algebra import inverse, solve
from wellposed.numerics.outward import REPRODUCIBLE
from wellposed.operators.fourier import real_parts, to_image, to_spectrum


@kind_of(ConvLBEN, inherited=True)
class ScaledBlock(EquilibriumBlock):
    """W = I − Ψ(C + FᵀF), or I − Ψ(C + FᵀF) − RRᵀΛ, by its matrices at every frequency."""

    @override
    def _deployed_offset(self, graph: DeployedGraph, edge: Edge) -> Edge:
        injection: CircularInjection = self.module.injection
        index = circular_patches(injection.image, injection.state[1:], injection.weight, injection.place)
        shape = injection.state
        driven = graph.call(
            "Convolution", edge, shape=shape, weight=injection.weight, bias=torch.zeros(shape[0], 1, 1, device="cpu"),
            index=index, back=[0, *shape],
        )  # fmt: skip
        bias = torch.zeros(shape[0], device="cpu") if injection.bias is None else injection.bias.detach()
        scale = torch.ones(1, 1, 1, device="cpu") if injection.scale is None else injection.scale.detach()
        return graph.call("Affine", driven, shape=shape, scale=scale, shift=bias[:, None, None])

    @override
    def _deployed_state(self, graph: DeployedGraph, driven: Edge) -> Edge:
        """Peaceman–Rachford splitting with steps in proportion to Λ, or with the step one where σ needs that."""
        layer, (operator, guarantee) = self.module, self.module.materialise()
        sigma, shape = layer.activation.interior, driven.shape
        name = name_of(sigma)
        if name is None or operator.driven is not None:
            raise self.unknown(f"no form in deployed files for the activation {sigma!r} or an input map out of metric")
        scale = operator.scale.detach()
        if not sigma.is_own_resolvent and scale.shape[1:] != (1, 1):
            raise self.unknown(
                f"no form in deployed files for {sigma!r} with a metric that changes from pixel to pixel"
            )
        factor = torch.zeros(1, *shape, device="cpu") if operator.factor is None else operator.factor.detach()
        step = (guarantee.suggested_step() if sigma.is_own_resolvent else None) or 1.0
        drive = step / scale.double() if sigma.is_own_resolvent else torch.ones(1, device="cpu")
        sensitivity = guarantee.offset_lipschitz() * REPRODUCIBLE
        numbers = reflection(operator.transfer, factor, drive * scale.double())
        return graph.call(
            f"ScaledEquilibrium_{name}", driven, shape=shape, transfer=real_parts(operator.transfer), scale=scale,
            factor=factor.flatten(1), mask=interior_mask(shape, layer.injection.border), **numbers,
            drive=drive.float(), back=[0, *shape], **turns(shape[1:]),
            sensitivity=sensitivity, **stopping(STEPS), **refining(graph, layer, sensitivity),
        )  # fmt: skip

    @override
    def _deployed_output(self, graph: DeployedGraph, state: Edge) -> Edge:
        output: PooledLinear = self.module.output
        means = averaged(graph, state, (output.pool, output.pool))
        features = math.prod(means.shape)
        flat = graph.call("Reshaped", means, shape=(features,), to=[0, features])
        return linear(graph, flat, output.weight, output.bias)


def reflection(transfer: Tensor, factor: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """``2(I + D(C + GᵀG))⁻¹ − I``, D constant over the pixels: a circular convolution, and a product of two matrices less.

    With K = (I + DC)⁻¹ the inverse is K − K·DGᵀ(I + GK·DGᵀ)⁻¹·GK, by the formula of Woodbury.

    Args:
        transfer: of C, shape (height, width//2 + 1, channels, channels).
        factor: G, shape (rows, channels, height, width).
        weights: the diagonal of D, of a shape that broadcasts to a state's.

    Returns:
        The convolution, and the matrices by which rows are multiplied one after the other, of shapes (n, rows), (rows, n).
    """
    core, rows, image = transfer.detach().to(torch.complex128), factor.double(), (factor.shape[2], factor.shape[3])
    identity = torch.eye(core.shape[-1], dtype=core.dtype, device="cpu")
    diagonal = weights.double()[:, :1, :1].expand(len(identity), 1, 1)
    solved = inverse(identity + diagonal[..., 0] * core)
    driven = to_image(torch.bmm(solved.flatten(0, 1), to_spectrum(rows * diagonal)), image).flatten(1)
    seen = to_image(torch.bmm(solved.flatten(0, 1).mH, to_spectrum(rows)), image).flatten(1)
    small = torch.eye(len(rows), dtype=torch.float64, device="cpu") + rows.flatten(1) @ driven.t()
    out = 2.0 * solve(small.t(), driven)
    reflect = (2.0 * solved - identity).to(torch.complex64)
    return {"reflect": real_parts(reflect), "into": seen.t().float().contiguous(), "out": out.float()}

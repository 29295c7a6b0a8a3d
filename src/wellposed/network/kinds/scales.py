"""Equilibria of images of several sizes, each driven by the one before."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.activations import name_of
from wellposed.layers.multi_scale_mondeq import MultiScaleMonDEQ
from wellposed.network.deployed import DeployedGraph, Edge
from wellposed.network.kinds.block import kind_of
from wellposed.network.kinds.circular import interior_mask, turns
from wellposed.network.kinds.convolutional import ConvolutionalBlock
from wellposed.network.kinds.equilibrium import STEPS, refining, stopping
from wellposed.numerics.convolution_norms import largest_singular_value
from wellposed.numerics.outward import REPRODUCIBLE
from wellposed.operators.fourier import real_parts
from wellposed.operators.multi_scale import MultiScale
from wellposed.operators.multi_scale_resolvent import BlockCayley
from wellposed.operators.tiers import Size, halved, spread, strides


@kind_of(MultiScaleMonDEQ, inherited=True)
class ScalesBlock(ConvolutionalBlock):
    """Circular convolutions of images of several sizes, with I − W ⪰ mI at every frequency."""

    @property
    @override
    def _offset_shape(self) -> tuple[int, ...]:
        return self.module.injection.tiers[0]

    @override
    def _deployed_state(self, graph: DeployedGraph, driven: Edge) -> Edge:
        """One equilibrium for each tier, as W is block lower triangular, by Peaceman–Rachford splitting."""
        layer, (operator, guarantee) = self.module, self.module.materialise()
        sigma = layer.activation.interior
        name = name_of(sigma)
        if name is None or not sigma.is_monotone:
            raise self.unknown(f"no form in deployed files for the activation {sigma!r}")
        step = (guarantee.suggested_step() if sigma.is_own_resolvent else None) or 1.0
        sensitivity, edge = guarantee.offset_lipschitz(), driven
        factors = _factors(operator, step)
        pairs = zip(operator.down, operator.into, strict=True)
        norms = [[largest_singular_value(part) * REPRODUCIBLE for part in pair] for pair in pairs]
        for place, (shape, size) in enumerate(zip(layer.injection.tiers, operator.images, strict=True)):
            numbers = {"transfer": real_parts(operator.own[place])}
            # An error in one tier drives all that follow.
            moved = sensitivity * math.prod(first * second * sensitivity for first, second in norms[place:])
            rest = {
                "mask": interior_mask(shape, layer.injection.border), **factors[place], "drive": torch.tensor(step, device="cpu"),
                **turns(size), "sensitivity": sensitivity, **stopping(STEPS), **refining(graph, layer, moved),
            }  # fmt: skip
            if place == len(operator.down):
                return graph.call(f"CirculatedEquilibrium_{name}", edge, shape=shape, **numbers, **rest)
            numbers.update(down=real_parts(operator.down[place]), keep=_kept(size))
            edge = graph.call(f"TierEquilibrium_{name}", edge, shape=shape, **numbers, **rest)
            edge = self._deployed_drive(graph, edge, operator, place, norms[place])
        return edge

    def _deployed_drive(
        self, graph: DeployedGraph, edge: Edge, operator: MultiScale, place: int, norms: list[float]
    ) -> Edge:
        """What a tier contributes to the offset of the next one, and the bias of that, appended to a deployed network."""
        injection, size, following = self.module.injection, operator.images[place], operator.images[place + 1]
        down, into = operator.down[place], operator.into[place]
        shape, biases = injection.tiers[place + 1], injection.others
        bias = biases[place].detach() if biases else torch.zeros(shape[0], device="cpu")
        seen = graph.call(
            "Circular", edge, shape=(shape[0], *size), transfer=real_parts(down), bias=torch.zeros(shape[0], 1, 1, device="cpu"),
            norm=norms[0], **turns(size),
        )  # fmt: skip
        half = graph.call("Placed", seen, shape=shape, index=_decimation(size, following), back=[0, *shape])
        return graph.call(
            "Circular", half, shape=shape, transfer=real_parts(into), bias=bias[:, None, None], norm=norms[1],
            **turns(following),
        )  # fmt: skip


def _kept(size: Size) -> Tensor:
    """Ones at the pixels that are every second row and column, to be broadcast over images."""
    half = halved(size)
    return spread(torch.ones(1, *half, device="cpu"), size)


def _decimation(size: Size, following: Size) -> Tensor:
    """Which pixels the next tier takes of an image, in its upper left corner: for zeros one place behind the last pixel."""
    (tall, wide), (high, broad) = strides(size), halved(size)
    rows, columns = torch.arange(following[0], device="cpu")[:, None], torch.arange(following[1], device="cpu")
    inside = (rows < high) & (columns < broad)
    return torch.where(inside, rows * tall * size[1] + columns * wide, size[0] * size[1]).flatten()


def _factors(operator: MultiScale, step: float) -> list[dict[str, Tensor]]:
    """``2(I + step(I − W))⁻¹ − I`` of every tier: a convolution, less two with the kept pixels between them.

    By the formula of Woodbury, V Dᵀ M D V with a convolution M of the kept pixels, which stands for one of all pixels.
    """
    own, down, into = (
        tuple(part.detach().cpu().to(torch.complex128) for part in parts)
        for parts in (operator.own, operator.down, operator.into)
    )
    known, found = BlockCayley(own, down, into, operator.layout, step), list[dict[str, Tensor]]()
    for place, (inverse, size) in enumerate(zip(known.inverses, operator.images, strict=True)):
        identity = torch.eye(inverse.shape[-1], dtype=inverse.dtype, device="cpu")
        parts = {"reflect": 2.0 * inverse - identity}
        if place < len(down):
            kernel = torch.fft.irfft2(known.middle[place].permute(2, 3, 0, 1), s=halved(size))
            middle = torch.fft.rfft2(spread(kernel, size)).permute(2, 3, 0, 1)
            parts.update(through=known.right[place], back=2.0 * known.left[place] @ middle)
        found.append({name: real_parts(part.to(torch.complex64)) for name, part in parts.items()})
    return found

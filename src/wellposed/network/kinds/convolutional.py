"""Equilibria of images whose input map is a zero-padded convolution."""

from __future__ import annotations

import torch
from typing_extensions import override

from wellposed.activations import name_of
from wellposed.layers.conv_mondeq import ConvMonDEQ
from wellposed.layers.conv_nemon import ConvNEMON
from wellposed.maps.image import ImageInjection
from wellposed.network.deployed import DeployedGraph, Edge, placement
from wellposed.network.kinds.block import kind_of
from wellposed.network.kinds.circular import interior_mask, turns
from wellposed.network.kinds.convolution import convolution, same_size
from wellposed.network.kinds.equilibrium import STEPS, EquilibriumBlock, refining, stopping
from wellposed.numerics.outward import REPRODUCIBLE
from wellposed.operators.circular import cayley_transfer
from wellposed.operators.fourier import real_parts


class ConvolutionalBlock(EquilibriumBlock):
    """What layers on images say alike of their activation and their input map."""

    @override
    def _deployed_offset(self, graph: DeployedGraph, edge: Edge) -> Edge:
        injection: ImageInjection = self.module.injection
        padding = (injection.weight.shape[2] // 2, injection.weight.shape[3] // 2)
        stride = (injection.stride[0], injection.stride[1])
        driven = convolution(graph, edge, injection.weight, injection.bias, stride, padding)
        return placed(graph, driven, self._offset_shape, injection.border)

    @property
    def _offset_shape(self) -> tuple[int, ...]:
        """Channels, height and width of the image of the state that the input drives."""
        return self.module.state_shape


@kind_of(ConvNEMON, inherited=True)
class ChannelwiseBlock(ConvolutionalBlock):
    """A zero-padded convolution, with vectors that bound its sensitivity channel by channel."""

    @override
    def _deployed_state(self, graph: DeployedGraph, driven: Edge) -> Edge:
        """The averaged iteration, with the largest damping for which no state keeps a negative share of itself."""
        sigma, (operator, guarantee) = name_of(self.module.activation), self.module.materialise()
        known = operator.coefficients()
        if sigma is None or known is None or not self.module.activation.is_monotone:
            raise self.unknown(f"no form in deployed files for the activation {self.module.activation!r}")
        proof = guarantee.norm_proof
        sensitivity = proof.value * REPRODUCIBLE
        refined = refining(graph, self.module, sensitivity * operator.norm_upper_bound())
        damping = 1.0 / (1.0 - known.weight[known.own].detach().clamp(max=0.0))
        found = graph.call(
            f"ConvolvedEquilibrium_{sigma}", driven, shape=driven.shape, **same_size(known.weight, driven.shape),
            damping=damping[:, None, None], sensitivity=sensitivity, **stopping(STEPS), **refined,
        )  # fmt: skip
        graph.prove(found, start=proof.start, reach=proof.reach, back=proof.back)
        return found


@kind_of(ConvMonDEQ, inherited=True)
class CircularBlock(ConvolutionalBlock):
    """A circular convolution, with I − W ⪰ mI at every frequency."""

    @override
    def _deployed_state(self, graph: DeployedGraph, driven: Edge) -> Edge:
        """Peaceman–Rachford splitting, whose reflected resolvent is one matrix per frequency too."""
        sigma, (operator, guarantee) = self.module.activation.interior, self.module.materialise()
        form, name = operator.frequency_form(), name_of(sigma)
        if form is None or name is None or not sigma.is_monotone:
            raise self.unknown(f"no form in deployed files for the activation {sigma!r}")
        step = (guarantee.suggested_step() if sigma.is_own_resolvent else None) or 1.0
        sensitivity = guarantee.offset_lipschitz() * REPRODUCIBLE
        reflect = cayley_transfer(form.transfer.to(torch.complex128), step).to(torch.complex64)
        return graph.call(
            f"CirculatedEquilibrium_{name}", driven, shape=driven.shape, transfer=real_parts(form.transfer),
            mask=interior_mask(driven.shape, self.module.injection.border), reflect=real_parts(reflect),
            drive=torch.tensor(step, device="cpu"), **turns(form.image), sensitivity=sensitivity, **stopping(STEPS),
            **refining(graph, self.module, sensitivity),
        )  # fmt: skip


def placed(graph: DeployedGraph, edge: Edge, shape: tuple[int, ...], border: int) -> Edge:
    """An image with zeros around it, appended to a deployed network.

    Args:
        graph: which is written.
        edge: the image.
        shape: channels, height and width of what it is put into.
        border: rows above it and columns on the left of it.
    """
    if edge.shape == shape:
        return edge
    index = placement(edge.shape[1:], shape[1:], border)
    return graph.call("Placed", edge, shape=shape, index=index, back=[0, *shape])

"""Equilibria of positive concave maps: ``z = σ(Wz + p(x))``, W ≥ 0."""

from __future__ import annotations

from typing_extensions import override

from wellposed.activations import name_of
from wellposed.guarantee import PositiveConcave
from wellposed.layers.conv_pcdeq import ConvPcDEQ
from wellposed.layers.pcdeq import PcDEQ
from wellposed.maps.convolution import Convolution
from wellposed.maps.positive_convolution import PositiveConv2d
from wellposed.network.deployed import DeployedGraph, Edge
from wellposed.network.kinds.block import kind_of
from wellposed.network.kinds.convolution import convolution, same_size
from wellposed.network.kinds.equilibrium import STEPS, EquilibriumBlock, refining, stopping
from wellposed.network.kinds.scaling import batch_normalised
from wellposed.numerics.outward import REPRODUCIBLE


@kind_of(PcDEQ, inherited=True)
class PositiveBlock(EquilibriumBlock):
    """A state below all fixed points, and vectors that bound the sensitivity there, prove its constant."""

    @override
    def _deployed_state(self, graph: DeployedGraph, driven: Edge) -> Edge:
        """Picard's iteration on a state map without negative entries, for the positive part of an offset."""
        injection, sigma = self.module.injection, name_of(self.module.activation)
        _, guarantee = self.module.materialise()
        floor, sharpness = injection.floor, injection.sharpness
        if sigma is None or (floor != 0.0 and sharpness != 1.0):
            raise self.unknown("no form in deployed files for this activation or sharpness")
        if injection.norm is not None:
            driven = batch_normalised(graph, driven, injection.norm)
        part = "Activation_relu" if floor == 0.0 else "PositivePart"
        offset = graph.call(part, driven, shape=driven.shape, **({} if floor == 0.0 else {"floor": floor}))
        return self._deployed_equilibrium(graph, offset, sigma, guarantee)

    def _deployed_equilibrium(self, graph: DeployedGraph, offset: Edge, sigma: str, guarantee: PositiveConcave) -> Edge:
        """The equilibrium for an offset that is positive, appended to a deployed network.

        Args:
            graph: which is written.
            offset: the offset.
            sigma: the name of the activation.
            guarantee: of the state map.
        """
        matrix = self.module.operator().matrix()
        if matrix is None:
            raise self.unknown("no form in deployed files for this state map")
        found = graph.call(
            f"PositiveEquilibrium_{sigma}", offset, shape=offset.shape, W=matrix, lowest=guarantee.lowest_offset,
            sensitivity=guarantee.offset_lipschitz() * REPRODUCIBLE, **stopping(STEPS),
        )  # fmt: skip
        proof = guarantee.norm_proof
        graph.prove(found, start=proof.start, reach=proof.reach, back=proof.back)
        return found


@kind_of(ConvPcDEQ, inherited=True)
class PositiveImageBlock(PositiveBlock):
    """A layer on images, with convolutions for matrices."""

    @override
    def _deployed_offset(self, graph: DeployedGraph, edge: Edge) -> Edge:
        injection: PositiveConv2d = self.module.injection
        numbers = Convolution.of(injection, injection.image)
        return convolution(graph, edge, injection.weight, injection.bias, numbers.stride, numbers.padding)

    @override
    def _deployed_equilibrium(self, graph: DeployedGraph, offset: Edge, sigma: str, guarantee: PositiveConcave) -> Edge:
        operator, proof = self.module.operator(), guarantee.norm_proof
        sensitivity = proof.value * REPRODUCIBLE
        known = operator.coefficients()
        if known is None:
            raise self.unknown("no form in deployed files for this state map")
        refined = refining(graph, self.module, sensitivity * operator.norm_upper_bound())
        found = graph.call(
            f"PositiveConvolvedEquilibrium_{sigma}", offset, shape=offset.shape,
            **same_size(known.weight, offset.shape), damping=known.weight.new_ones(1, 1, 1),
            lowest=guarantee.lowest_offset, sensitivity=sensitivity, **stopping(STEPS), **refined,
        )  # fmt: skip
        graph.prove(found, start=proof.start, reach=proof.reach, back=proof.back)
        return found

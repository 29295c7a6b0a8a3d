"""Equilibria of contractive cells that are made of orthogonal maps."""

from __future__ import annotations

import math
from typing import Any

import torch
from typing_extensions import override

from wellposed.layers.contractive_cell import mixing_numbers
from wellposed.layers.conv_orthogonal import ConvOrthogonalDEQ
from wellposed.layers.orthogonal import OrthogonalDEQ
from wellposed.network.deployed import DeployedGraph, Edge
from wellposed.network.kinds.block import block_of, kind_of
from wellposed.network.kinds.circular import checkable_excess, on_grid, turns
from wellposed.network.kinds.equilibrium import STEPS, refining, stopping
from wellposed.network.kinds.implicit import ImplicitBlock
from wellposed.network.kinds.linear import linear
from wellposed.numerics.outward import enlarged


def _ratio(kappa: float) -> float:
    """What the input of a joint cell is multiplied with."""
    return math.sqrt(1.0 - kappa**2) / kappa


_LEAST = 1e-30  # contraction that is stored, as the checker rounds up from zero
_MIXING = 16  # operations by which products of mixing numbers are computed, at most
_COUPLED = {  # κ, and the shares of the state, of what the maps make of it and of the drive, for κ and ω
    "convex": lambda kappa, omega: (1.0, 0.0, kappa * (1.0 - omega), kappa * omega),
    "additive": lambda kappa, omega: (1.0, 0.0, kappa, 1.0),
    "joint": lambda kappa, omega: (kappa, 0.0, 1.0, _ratio(kappa)),
}


class _CellBlock(ImplicitBlock):
    """A cell with the maps, the coupling and the numbers κ and ω that its theorem is about."""

    @override
    def deploy(self, graph: DeployedGraph, edge: Edge) -> Edge:
        """Picard's iteration."""
        if edge.shape != self.module.input_shape:
            raise self.unknown("no form in deployed files for rows of inputs")
        drive = self._deployed_drive(graph, edge)
        function, numbers = self._deployed_maps()
        excess = checkable_excess(self.module.norm_excess(), drive.shape[0])
        contraction = max(enlarged(self.module.constants(excess)[0], _MIXING), _LEAST)
        if contraction >= 1.0:
            raise self.unknown("no contraction for deployed files")
        return graph.call(
            function, drive, shape=drive.shape, **numbers, **self._deployed_mixing(), contraction=contraction,
            **stopping(STEPS), **refining(graph, self.module, contraction / (1.0 - contraction)),
        )  # fmt: skip

    @property
    def _maps(self) -> list[Any]:
        """The orthogonal maps of the cell."""
        return list(self.module.maps)

    def _deployed_drive(self, graph: DeployedGraph, edge: Edge) -> Edge:
        """What the input contributes, appended to a deployed network."""
        injection = self.module.injection
        return edge if injection is None else block_of(f"{self.name}.injection", injection).deploy(graph, edge)

    def _deployed_maps(self) -> tuple[str, dict[str, Any]]:
        """The function of deployed networks that finds the equilibrium, and the numbers of the maps and what they sort."""
        raise NotImplementedError

    def _deployed_mixing(self) -> dict[str, Any]:
        """The numbers κ, and those that the state, what the maps make of it and the drive are multiplied with."""
        layer: OrthogonalDEQ | ConvOrthogonalDEQ = self.module
        kappa, omega = layer.kappa, layer.omega
        if layer.mixing is not None:
            first, second = mixing_numbers(layer.mixing)
            mixing = kappa, second, (1.0 - second) * (1.0 - first), (1.0 - second) * first
        else:
            mixing = _COUPLED[layer.coupling](kappa, omega)
        return dict(zip(("kappa", "direct", "through", "driven"), map(float, mixing), strict=True))


@kind_of(OrthogonalDEQ, inherited=True)
class FeatureCellBlock(_CellBlock):
    """A cell on vectors."""

    @override
    def deploy(self, graph: DeployedGraph, edge: Edge) -> Edge:
        found, layer = super().deploy(graph, edge), self.module
        if layer.injection is None:
            graph.prove(found, ratio=torch.tensor([_ratio(layer.kappa)], dtype=torch.float64, device="cpu"))
        return found

    @override
    def _deployed_drive(self, graph: DeployedGraph, edge: Edge) -> Edge:
        layer: OrthogonalDEQ = self.module
        if layer.injection is not None:
            return super()._deployed_drive(graph, edge)
        (part,) = self._maps
        return linear(graph, edge, part.weight.detach()[:, layer.state_features :], None)

    @override
    def _deployed_maps(self) -> tuple[str, dict[str, Any]]:
        layer: OrthogonalDEQ = self.module
        if layer.group != 2 or layer.angles is not None:
            raise self.unknown("no form in deployed files for groups of other than two, or for learned reflections")
        joint = layer.injection is None
        weights = torch.stack([part.weight.detach()[:, : layer.state_features] for part in self._maps])
        biases = torch.stack([part.bias.detach() for part in self._maps])
        outer = joint or layer.mixing is not None
        sorts = {"inner": torch.tensor(int(not joint), device="cpu"), "outer": torch.tensor(int(outer), device="cpu")}
        return "FeatureCellEquilibrium", {"weights": weights, "biases": biases, **sorts}


@kind_of(ConvOrthogonalDEQ, inherited=True)
class ChannelCellBlock(_CellBlock):
    """A cell on images."""

    @override
    def _deployed_maps(self) -> tuple[str, dict[str, Any]]:
        layer: ConvOrthogonalDEQ = self.module
        residual = int(layer.mixing is not None)
        numbers = {}
        for place, part in enumerate(self._maps):
            numbers[f"transfer.{place}"] = on_grid(part)
            numbers[f"bias.{place}"] = part.bias.detach()[:, None, None]
        sorts = {"inner": torch.tensor(1 - residual, device="cpu"), "outer": torch.tensor(residual, device="cpu")}
        return "ChannelCellEquilibrium", {**numbers, **sorts}

    @override
    def _deployed_mixing(self) -> dict[str, Any]:
        layer: ConvOrthogonalDEQ = self.module
        return {**super()._deployed_mixing(), **turns(layer.state_shape[1:])}

"""Layers on graphs, and the pooling of their nodes."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.activations import name_of
from wellposed.errors import CertificateError
from wellposed.layers.graph import ADJACENCY, ImplicitGraph
from wellposed.layers.graph_classifier import NodeSum
from wellposed.layers.group_sort import group_sort
from wellposed.network.deployed import DeployedGraph, Edge
from wellposed.network.kinds.block import Block, Shape, kind_of
from wellposed.network.propagation import Own, Point, Step
from wellposed.numerics.norm import Norm
from wellposed.numerics.outward import enlarged
from wellposed.operators.graphs import Graphs, frobenius_norms
from wellposed.solvers.solution import Tolerance

_ENOUGH = 2.0**-40  # changes of iterates, relative to their size, that are hardly more than rounding
_STEPS = 20000  # at most


class _OnGraphs(Block):
    """A block whose input is node features; samples are the graphs, with the Frobenius norm."""

    needs_graphs = keeps_graphs = True

    @override
    def run(self, value: Tensor, graphs: Graphs | None) -> tuple[Tensor, Graphs | None]:
        if graphs is None:
            raise CertificateError(
                f"model: its blocks do not run together: {self.name}, a {self.kind}, is given no graphs"
            )
        return self.module(value, graphs), graphs if self.keeps_graphs else None

    @override
    def through(self, point: Point, *, forward: bool) -> Point:
        if forward:
            raise CertificateError(f"{self.name}: forward=True is not known for layers on graphs; leave it out")
        if point.graphs is None:
            raise CertificateError(f"{self.name}: a {self.kind} behind the pooling is not known")
        factor, _ = self.constant("2")
        step, solved = self._step(point.value, point.graphs, factor)
        kept = point.graphs if self.keeps_graphs else None
        return Point(step.image, point.errors.through(factor, [step]), point.solved & solved, kept)

    def _step(self, value: Tensor, graphs: Graphs, factor: float) -> tuple[Step, Tensor]:
        """The block's value with its errors, and for which graphs they hold, shape (graphs,)."""
        raise NotImplementedError


@kind_of(ImplicitGraph)
class GraphLayerBlock(_OnGraphs):
    """An implicit layer on graphs."""

    @override
    def constant(self, norm: Norm) -> tuple[float, str]:
        return self.module.lipschitz() if norm == "2" else super().constant(norm)

    @property
    @override
    def input_shape(self) -> Shape | None:
        return (self.module.in_features,)

    @override
    def deploy(self, graph: DeployedGraph, edge: Edge) -> Edge:
        """Picard's iteration in float64."""
        layer, size = self.module, self.module.state_features
        sorts = layer.activation is group_sort
        name = "identity" if sorts else name_of(layer.activation)
        contraction = enlarged(layer.norms(proved=True)[0] * ADJACENCY, 4)
        if name is None or edge.shape != self.input_shape:
            raise self.unknown(f"no form in deployed files for the activation {layer.activation!r}")
        if contraction >= 1.0:
            raise self.unknown("no form in deployed files for state maps that contract in a maximum norm only")
        # Features that are sorted in pairs; without pairs every feature is its own partner.
        places = torch.arange(size, device="cpu")
        partner = (places + size // 2) % size if sorts else places
        through, driven = layer.scales
        bias = torch.zeros(size, device="cpu") if layer.injection.bias is None else layer.injection.bias.detach()
        return graph.call(
            f"GraphEquilibrium_{name}", edge, shape=(size,), matrix=layer.state_map.weight.detach(),
            injection=layer.injection.weight.detach(), bias=bias, through=float(through), driven=float(driven),
            partner=partner, lower=(places <= partner).long(), contraction=contraction, stop=torch.tensor(_ENOUGH, device="cpu"),
            limit=torch.tensor(min(_STEPS, 10 + math.ceil(math.log(_ENOUGH) / math.log(max(contraction, 1e-3)))), device="cpu"),
        )  # fmt: skip

    @override
    def _step(self, value: Tensor, graphs: Graphs, factor: float) -> tuple[Step, Tensor]:
        solution = self.module.solve(value, graphs)
        assert solution.error_bound is not None
        rtol, atol = self.module.limits()
        usual = torch.ones(graphs.count, dtype=torch.bool, device=value.device)
        # The constant is about adjacencies of norm one.
        for part in graphs.groups:
            usual[part.members] = part.norm <= ADJACENCY
        size = 1.001 * frobenius_norms(solution.value, graphs.batch, graphs.count)
        own = Own(atol + rtol * size, 0.0, rtol)
        return Step(own, solution.value, factor, 1.0, solution.error_bound.double()), usual & solution.converged

    @override
    def exact(self) -> ImplicitGraph:
        exact = super().exact()
        exact.tolerance = Tolerance(1e-9, 1e-9)
        return exact


@kind_of(NodeSum)
class NodeSumBlock(_OnGraphs):
    """Sums over the nodes of each graph, divided by the root of their number."""

    keeps_graphs = False

    @override
    def constant(self, norm: Norm) -> tuple[float, str]:
        if norm != "2":
            return super().constant(norm)
        if not self.module.by_root:
            raise CertificateError(
                f"{self.name}: a sum over nodes grows with the graph; certified is NodeSum(by_root=True)"
            )
        return 1.0, "orthonormal rows, for every graph"

    @override
    def deploy(self, graph: DeployedGraph, edge: Edge) -> Edge:
        if not self.module.by_root:
            raise self.unknown("no form in deployed files for sums that grow with the graph")
        return graph.call("NodeSum", edge, shape=edge.shape)

    @override
    def _step(self, value: Tensor, graphs: Graphs, factor: float) -> tuple[Step, Tensor]:
        unit = 1.001 * torch.finfo(value.dtype).eps * (float(graphs.sizes.max()) + 4.0)
        own = Own(unit * frobenius_norms(value, graphs.batch, graphs.count), unit)
        solved = torch.ones(graphs.count, dtype=torch.bool, device=value.device)
        return Step(own, self.module(value, graphs), factor), solved

"""Layers on graphs, and the pooling of their nodes."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.errors import CertificateError
from wellposed.layers.graph import ADJACENCY, ImplicitGraph
from wellposed.layers.graph_classifier import NodeSum
from wellposed.network.kinds.block import Block, kind_of
from wellposed.network.propagation import Own, Point, Step
from wellposed.numerics.norm import Norm
from wellposed.operators.graphs import Graphs, frobenius_norms
from wellposed.solvers.solution import Tolerance


class _OnGraphs(Block):
    """A block whose input is node features; samples are the graphs, with the Frobenius norm."""

    needs_graphs = keeps_graphs = True

    @override
    def run(self, value: Tensor, graphs: Graphs | None) -> tuple[Tensor, Graphs | None]:
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
    def _step(self, value: Tensor, graphs: Graphs, factor: float) -> tuple[Step, Tensor]:
        unit = 1.001 * torch.finfo(value.dtype).eps * (float(graphs.sizes.max()) + 4.0)
        own = Own(unit * frobenius_norms(value, graphs.batch, graphs.count), unit)
        solved = torch.ones(graphs.count, dtype=torch.bool, device=value.device)
        return Step(own, self.module(value, graphs), factor), solved

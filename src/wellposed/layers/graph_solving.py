"""Solving the equation of a layer on graphs, one per graph, with the evidence for its solution."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.any_map import fixed_point_with
from wellposed.constraints.factorisations import is_transformed
from wellposed.errors import InputError, check_class
from wellposed.guarantee import GraphContraction
from wellposed.implicit import Settings
from wellposed.layers.approach import approached, may_begin
from wellposed.layers.compiled import value_of
from wellposed.layers.inputs import check_numbers, diagnose, in_precision_of
from wellposed.layers.options import SolvingModule
from wellposed.layers.orthogonal_linear import OrthogonalLinear
from wellposed.numerics.euclidean import euclidean, underflow
from wellposed.numerics.linear_algebra import full_precision
from wellposed.numerics.outward import rounding_constant
from wellposed.numerics.uncompiled import uncompiled
from wellposed.operators.graph_group import GraphGroup
from wellposed.operators.graphs import Graphs
from wellposed.solvers.problem import MapProblem
from wellposed.solvers.solution import Report, Solution, Status


class GraphSolving(SolvingModule, ABC):
    """Node states X with ``X = σ(A X Wᵀ + A U Ωᵀ + b)``, one equation per graph, for node features U.

    Attributes:
        in_features: features of a node.
        state_features: features of its state.
        activation: σ, a 1-Lipschitz map of the features of a node that maps zero to zero.
        state_map: with the attribute ``weight``, which is W but for its scale.
        injection: with the attributes ``weight`` and ``bias``, which are Ω but for its scale, and b.
    """

    in_features: int
    state_features: int
    activation: Any
    state_map: Any
    injection: nn.Linear | OrthogonalLinear

    @property
    @abstractmethod
    def scales(self) -> tuple[float, float]:
        """Factors of the state map and of the injection."""

    @abstractmethod
    def norms(self, *, proved: bool) -> tuple[float, float | None]:
        """Upper bounds of ‖W‖₂ and, where it matters, ‖W‖_∞.

        Args:
            proved: for the stored numbers; else by the construction of W, which is quicker.
        """

    def forward(self, x: Tensor, graphs: Graphs) -> Tensor:
        """The state of every node.

        Args:
            x: node features, shape (nodes, in_features).
            graphs: their graphs.

        Returns:
            Shape (nodes, state_features).

        Raises:
            InputError: wrong shape or dtype, or NaN or infinity.
            GuaranteeError: a graph's adjacency is too large for the weights.
            NotConvergedError: a graph did not converge and ``on_failure="raise"``.
        """
        x = in_precision_of(self, x)
        if torch.compiler.is_compiling() or x.is_meta:
            return value_of(self, x, graphs)
        return self.evaluate(x, graphs)[0]

    def shapes(self, x: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of the value and of the state, which are one thing, for node features that may have no numbers."""
        return ((x.shape[0], self.state_features),) * 2

    def evaluate(self, x: Tensor, aside: Graphs, known: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The state of every node, as value and as state.

        Args:
            x: node features, in the precision of the weights.
            aside: their graphs.
            known: the state, where an earlier call with the same numbers has found it.
        """
        state = self._run(x, aside, x.dtype, proved=False, known=known).value
        return state, state

    @uncompiled
    def solve(self, x: Tensor, graphs: Graphs) -> Solution[Tensor]:
        """The states with their evidence, one entry per graph: status, steps, and a rigorous bound on the Frobenius error.

        Solved in float64 for the stored weights; the bound counts every rounding error from features, weights and adjacency (in
        float64) to the value. Where graphs differ much in size, the adjoint reports of the several solves are not kept.

        Args:
            x: node features, shape (nodes, in_features).
            graphs: their graphs.
        """
        return self._run(in_precision_of(self, x), graphs, torch.float64, proved=True)

    def _check(self, x: Tensor, graphs: Graphs) -> None:
        check_class("graphs", graphs, Graphs, "must be the Graphs of these nodes")
        if x.shape != (graphs.nodes, self.in_features):
            raise InputError(
                f"x: has shape {tuple(x.shape)}; {graphs.nodes} nodes of {self.in_features} features are needed"
            )
        check_numbers(x, self.injection.weight)
        diagnose(self, x, x)

    def _run(
        self, x: Tensor, graphs: Graphs, dtype: torch.dtype, *, proved: bool, known: Tensor | None = None
    ) -> Solution[Tensor]:
        self._check(x, graphs)
        with full_precision(x.device):
            weight = self.scales[0] * self.state_map.weight.to(dtype)
            injection = self.scales[1] * self.injection.weight.to(dtype)
            bias = None if self.injection.bias is None else self.injection.bias.to(dtype)
            norms = self.norms(proved=proved)
            through = nn.functional.linear(x.to(dtype), injection)
            value = through.new_zeros(graphs.nodes, self.state_features)
            if not graphs.groups:  # no rows, but all that has a gradient
                value = nn.functional.linear(through, weight, bias)
            count = graphs.count
            codes = torch.zeros(count, dtype=torch.int8, device=x.device)
            steps, numbers = codes.long(), codes.double()
            fields = [codes, numbers, steps, numbers]
            adjoint: list[Report] = []
            algorithm = ""
            for group in graphs.groups:
                settings = self.settings(*self.limits(), certified=proved)
                found = self._solve_group(
                    group, through, weight, bias, GraphContraction(group, *norms), settings, known
                )
                bound, state = found.error_bound, found.value
                if proved:
                    assert bound is not None  # a guarantee was given
                    rounding, hidden = self._rounding(group, x, state)
                    rounded = state.detach().to(x.dtype)
                    bound = bound + rounding + hidden + euclidean(rounded.double() - state.detach())
                    found = self._judged(found, bound, hidden)
                value = value.index_copy(0, group.nodes, group.unpad(state))
                fields = [
                    whole if part is None else whole.index_copy(0, group.members, part.to(whole))
                    for whole, part in zip(fields, (*found.fields()[:3], bound), strict=True)
                ]
                algorithm = found.algorithm
                adjoint = found.adjoint_reports if len(graphs.groups) == 1 else adjoint
        codes, residual, steps, bounds = fields
        return Solution(
            codes, residual, steps, bounds if proved else None, algorithm,
            value=value.to(x.dtype), adjoint_reports=adjoint,
        )  # fmt: skip

    def _judged(self, found: Solution[Tensor], bound: Tensor, hidden: Tensor) -> Solution[Tensor]:
        """The solution with the status that its final bound deserves, what underflow hides left out."""
        rtol, atol = self.limits()
        met = (bound <= atol + rtol * euclidean(found.value.detach()) + 2.0 * hidden) & torch.isfinite(bound)
        codes = torch.where(found.converged & ~met, Status.STALLED.code, found.status_codes.long()).to(torch.int8)
        return dataclasses.replace(found, status_codes=codes)

    def limits(self) -> tuple[float, float]:
        """The tolerances, relative and absolute, that a solve of a graph must meet."""
        return self.limits_by_root(self.injection.weight.dtype)

    def _solve_group(
        self, group: GraphGroup, through: Tensor, weight: Tensor, bias: Tensor | None, guarantee: GraphContraction,
        settings: Settings, known: Tensor | None,
    ) -> Solution[Tensor]:  # fmt: skip
        drive = group.propagate(group.pad(through))
        if bias is not None:
            drive = drive + group.pad(bias.expand(len(through), -1))
        sigma = self.activation

        def cell(state: Tensor, drive: Tensor, weight: Tensor) -> Tensor:
            return sigma(torch.add(group.propagate(state @ weight.t()), drive))

        start, own = torch.zeros_like(drive).detach(), self.injection.weight.dtype
        before = torch.zeros(len(drive), dtype=torch.int64, device=drive.device)
        if drive.dtype != own and may_begin(settings) and not is_transformed((drive, weight)):
            near, matrix = drive.detach().to(own), weight.detach().to(own)
            problem = MapProblem(lambda state: cell(state, near, matrix))
            start, before, settings = approached(problem, start.to(own), settings, guarantee.estimated())
        found = fixed_point_with(
            cell, start, (drive, weight), settings, guarantee=guarantee,
            known=None if known is None else group.pad(known),
        )  # fmt: skip
        return dataclasses.replace(found, steps=found.steps + before)

    @torch.no_grad()
    def _rounding(self, group: GraphGroup, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """What rounding in float64, and underflow, can have moved each graph's equilibrium by, beyond the guarantee's bound."""
        terms = self.state_features + self.in_features + 2 * group.largest_degree + 12
        state_norm, injection_norm = (
            euclidean(part.weight.detach().reshape(1, -1)) for part in (self.state_map, self.injection)
        )
        inputs = euclidean(group.pad(x.double()))
        size = group.norm * (state_norm * euclidean(state) + injection_norm * inputs)
        if self.injection.bias is not None:
            size = size + euclidean(self.injection.bias[None]) * state.shape[1] ** 0.5
        defect = 2.0 * rounding_constant(terms) * (size + euclidean(state))
        guarantee = GraphContraction(group, *self.norms(proved=True))
        entries = state[0].numel() + group.pad(x)[0].numel()
        weights = 1.0 + state_norm + injection_norm + euclidean(state) + inputs
        lost = underflow(x.dtype, entries, terms * self.state_features) * (1.0 + group.norm) * weights
        return guarantee.defect_bound(state, defect), guarantee.defect_bound(state, lost) + lost

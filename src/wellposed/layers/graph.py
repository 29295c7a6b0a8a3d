"""Implicit graph networks: node states that solve an equation over the whole graph (Gu et al. 2020), in three variants."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from wellposed.activations import Activation
from wellposed.activations import activation as activation_named
from wellposed.constraints.base import check_size
from wellposed.constraints.perron_frobenius import RowBounded
from wellposed.errors import GuaranteeError, InputError, check, checked_options, choices
from wellposed.fixed_point import fixed_point
from wellposed.guarantee import GraphContraction
from wellposed.layers.contractive_cell import NORM_SLACK
from wellposed.layers.group_sort import group_sort
from wellposed.layers.maps import check_map, require_kind
from wellposed.layers.options import SolveOptions, SolvingModule
from wellposed.layers.orthogonal_linear import OrthogonalLinear
from wellposed.numerics.euclidean import euclidean, underflow
from wellposed.numerics.linear_algebra import full_precision
from wellposed.numerics.outward import rounding_constant
from wellposed.numerics.verified import spectral_norm_upper_bound
from wellposed.operators.graphs import GraphGroup, Graphs
from wellposed.solvers import Picard
from wellposed.solvers.solution import Report, Solution, Status

VARIANTS = ("ignn", "orthogonal", "lipschitz")


class ImplicitGraph(SolvingModule):
    """Node states X with ``X = σ(A X Wᵀ + A U Ωᵀ + b)``, one equation per graph, for node features U.

    ``"ignn"``: ‖W‖_∞ ≤ κ by projecting rows; σ acts coordinate by coordinate (Gu et al. 2020, Perron–Frobenius).
    ``"orthogonal"``: W = κQ with Q orthogonal; any σ that is 1-Lipschitz, GroupSort included (‖·‖_F contraction).
    ``"lipschitz"``: W = κ(1 − ω)Q, Ω = κω·P with Q orthogonal and P semi-orthogonal: U ↦ X is κω/(1 − κ(1 − ω)) ≤ 1 Lipschitz
    in the Frobenius norm on every graph with ‖A‖₂ ≤ 1, as after symmetric normalisation.

    Args:
        in_features: features of a node.
        state_features: features of its state.
        variant: see above.
        kappa: κ in (0, 1), or 1 for ``"lipschitz"``.
        omega: ω in (0, 1], for ``"lipschitz"``.
        activation: ``"group_sort"`` (pairs: MaxMin), not with ``"ignn"``, or a name with slopes in [0, 1] and σ(0) = 0.
        device: where the weights are created.
        dtype: their dtype.
        options: see `SolveOptions`; solver None is `Picard`, tolerances are about each graph's Frobenius error
            and eps^(1/2) by default.
    """

    @checked_options
    def __init__(
        self,
        in_features: int,
        state_features: int,
        *,
        variant: str = "ignn",
        kappa: float = 0.9,
        omega: float = 0.5,
        activation: str = "relu",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[SolveOptions],
    ) -> None:
        super().__init__(**options)
        check(in_features > 0, "in_features", in_features, "must be a positive integer")
        check_size(state_features)
        choices("variant", variant, VARIANTS)
        most = 1.0 if variant == "lipschitz" else math.nextafter(1.0, 0.0)
        check(0.0 < kappa <= most, "kappa", kappa, "must lie in (0, 1), or be 1 for the variant 'lipschitz'")
        check(0.0 < omega <= 1.0, "omega", omega, "must lie in (0, 1]")
        self.activation = _node_activation(activation, variant, state_features)
        self.in_features, self.state_features, self.variant = in_features, state_features, variant
        self.kappa, self.omega = float(kappa), float(omega)
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.state_map: RowBounded | OrthogonalLinear
        self.injection: nn.Linear | OrthogonalLinear
        if variant == "ignn":
            self.state_map = RowBounded(state_features, self.kappa, **where)
        else:
            self.state_map = OrthogonalLinear(state_features, state_features, bias=False, **where)
        if variant == "lipschitz":
            self.injection = OrthogonalLinear(in_features, state_features, **where)
        else:
            self.injection = nn.Linear(in_features, state_features, **where)

    def check_parts(self) -> None:
        """Raise an error if a part or an option was replaced by one that the theorem of this layer is not about."""
        choices("variant", self.variant, VARIANTS)
        most = 1.0 if self.variant == "lipschitz" else math.nextafter(1.0, 0.0)
        ranges = 0.0 < self.kappa <= most and 0.0 < self.omega <= 1.0
        check(ranges, "kappa, omega", (self.kappa, self.omega), "outside of what the theorem allows")
        require_kind("state_map", self.state_map, (RowBounded if self.variant == "ignn" else OrthogonalLinear,))
        require_kind("injection", self.injection, (OrthogonalLinear if self.variant == "lipschitz" else nn.Linear,))
        size = self.state_features
        check(self.state_map.weight.shape == (size, size), "state_map", self.state_map, f"must be of {size} features")
        check(getattr(self.state_map, "bias", None) is None, "state_map.bias", self.state_map, "must be None")
        check_map("injection", self.injection, self.in_features, size)
        if self.activation is not group_sort:
            require_fixing_zero(self.activation)
        elif self.variant == "ignn" or size % 2:
            raise InputError(
                "activation='group_sort': needs an even number of features and another variant than 'ignn'"
            )

    @property
    def scales(self) -> tuple[float, float]:
        """Factors of the state map and of the injection."""
        if self.variant == "ignn":
            return 1.0, 1.0
        if self.variant == "orthogonal":
            return self.kappa, 1.0
        return self.kappa * (1.0 - self.omega), self.kappa * self.omega

    def _norms(self, *, proved: bool) -> tuple[float, float | None]:
        """Upper bounds of ‖W‖₂ and, where it matters, ‖W‖_∞; without ``proved`` that of Q comes from its construction."""
        weight = self.state_map.weight.detach()
        if self.variant != "ignn":
            norm = spectral_norm_upper_bound(weight) if proved else 1.0 + NORM_SLACK[weight.dtype]
            return self.scales[0] * norm * (1.0 + 1e-15), None
        size = weight.double().abs()
        margin = 1.0 + rounding_constant(len(size) + 4)
        rows, columns = (float(size.sum(dim).amax()) * margin for dim in (1, 0))
        spectral = spectral_norm_upper_bound(weight) if proved else math.sqrt(rows * columns) * margin
        return spectral, rows

    def lipschitz(self) -> tuple[float, str]:
        """Frobenius Lipschitz constant of U ↦ X for the stored numbers, on every graph with ‖A‖₂ ≤ 1, and its reason.

        Raises:
            GuaranteeError: the state map contracts in a maximum norm only.
        """
        factor = self._norms(proved=True)[0] * (1.0 + 1e-12)  # the stored adjacency may exceed norm one by rounding
        if factor >= 1.0:
            raise GuaranteeError("W contracts in a weighted maximum norm only; there is no constant for all graphs")
        injection = self.scales[1] * spectral_norm_upper_bound(self.injection.weight)
        value = injection / (1.0 - factor) * (1.0 + 1.1e-12)
        return value, f"implicit graph layer: ‖Ω‖₂/(1 − ‖W‖₂) with ‖W‖₂ = {factor:.6g}, for ‖A‖₂ ≤ 1"

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
        return self._run(x, graphs, x.dtype, proved=False).value

    def solve(self, x: Tensor, graphs: Graphs) -> Solution[Tensor]:
        """The states with their evidence, one entry per graph: status, steps, and a rigorous bound on the Frobenius error.

        Solved in float64 for the stored weights; the bound counts every rounding error from features, weights and
        adjacency (in float64) to the value. Arguments as for `forward`. Where graphs differ much in size, the adjoint
        reports of the several solves are not kept.
        """
        return self._run(x, graphs, torch.float64, proved=True)

    def _check(self, x: Tensor, graphs: Graphs) -> None:
        if x.shape != (graphs.nodes, self.in_features):
            raise InputError(
                f"x: has shape {tuple(x.shape)}; {graphs.nodes} nodes of {self.in_features} features are needed"
            )
        if x.dtype != self.injection.weight.dtype:
            raise InputError(f"x: has dtype {x.dtype}, the weights have {self.injection.weight.dtype}; convert one")
        if x.dtype not in (torch.float32, torch.float64):
            raise InputError(f"dtype={x.dtype}: equilibria need float32 or float64 weights")
        if torch._C._functorch.is_functorch_wrapped_tensor(x):
            return  # whose numbers cannot be looked at
        if not bool(torch.isfinite(x).all()):
            raise InputError("x: has NaN or infinite entries")
        for name, parameter in self.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                raise InputError(f"{name}: the weights have NaN or infinite entries; was the learning rate too high?")

    def _run(self, x: Tensor, graphs: Graphs, dtype: torch.dtype, *, proved: bool) -> Solution[Tensor]:
        self._check(x, graphs)
        with full_precision(x.device):
            weight = self.scales[0] * self.state_map.weight.to(dtype)
            injection = self.scales[1] * self.injection.weight.to(dtype)
            bias = None if self.injection.bias is None else self.injection.bias.to(dtype)
            norms = self._norms(proved=proved)
            through = nn.functional.linear(x.to(dtype), injection)
            value = through.new_zeros(graphs.nodes, self.state_features)
            count = graphs.count
            codes = torch.zeros(count, dtype=torch.int8, device=x.device)
            steps, numbers = codes.long(), codes.double()
            report = Report(codes, numbers.clone(), steps, numbers.clone())
            adjoint: list[Report] = []
            for group in graphs.groups:
                found = self._solve_group(group, through, weight, bias, GraphContraction(group, *norms))
                bound = found.error_bound
                assert bound is not None  # a guarantee was given
                state = found.value
                if proved:
                    rounding, hidden = self._rounding(group, x, state)
                    rounded = state.detach().to(x.dtype)
                    bound = bound + rounding + hidden + euclidean(rounded.double() - state.detach())
                    found = self._judged(found, bound, hidden)
                value = value.index_copy(0, group.nodes, group.unpad(state))
                for whole, part in zip(report.fields(), (*found.fields()[:3], bound), strict=True):
                    assert whole is not None
                    whole[group.members] = part
                adjoint = found.adjoint_reports if len(graphs.groups) == 1 else adjoint
        return Solution(*report.fields(), value.to(x.dtype), adjoint)

    def _judged(self, found: Solution[Tensor], bound: Tensor, hidden: Tensor) -> Solution[Tensor]:
        """The solution with the status that its final bound deserves, what underflow hides left out."""
        rtol, atol = self.limits()
        met = bound <= atol + rtol * euclidean(found.value.detach()) + 2.0 * hidden
        codes = torch.where(found.converged & ~met, Status.STALLED.code, found.status_codes.long()).to(torch.int8)
        return dataclasses.replace(found, status_codes=codes)

    def limits(self) -> tuple[float, float]:
        """The tolerances, relative and absolute, that a solve of a graph must meet."""
        default = torch.finfo(self.injection.weight.dtype).eps ** 0.5
        given = self.tolerance.rtol, self.tolerance.atol
        return default if given[0] is None else given[0], default if given[1] is None else given[1]

    def _solve_group(
        self, group: GraphGroup, through: Tensor, weight: Tensor, bias: Tensor | None, guarantee: GraphContraction
    ) -> Solution[Tensor]:
        drive = group.propagate(group.pad(through))
        if bias is not None:
            drive = drive + group.pad(bias.expand(len(through), -1))
        sigma = self.activation

        def cell(state: Tensor, drive: Tensor, weight: Tensor) -> Tensor:
            return sigma(torch.add(group.propagate(state @ weight.t()), drive))

        rtol, atol = self.limits()
        return fixed_point(
            cell, torch.zeros_like(drive).detach(), (drive, weight), rtol=rtol, atol=atol, max_steps=self.max_steps,
            solver=Picard() if self.solver is None else self.solver, guarantee=guarantee, gradient=self.gradient,
            on_failure=self.on_failure,
        )  # fmt: skip

    @torch.no_grad()
    def _rounding(self, group: GraphGroup, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """What rounding in float64, and underflow, can have moved each graph's equilibrium by, beyond the guarantee's bound."""
        terms = self.state_features + self.in_features + 2 * group.largest_degree + 12
        state_norm, injection_norm = (
            float(euclidean(part.weight.detach().reshape(1, -1))) for part in (self.state_map, self.injection)
        )
        inputs = euclidean(group.pad(x.double()))
        size = group.norm * (state_norm * euclidean(state) + injection_norm * inputs)
        if self.injection.bias is not None:
            size = size + float(euclidean(self.injection.bias[None])) * state.shape[1] ** 0.5
        defect = 2.0 * rounding_constant(terms) * (size + euclidean(state))
        guarantee = GraphContraction(group, *self._norms(proved=True))
        entries = state[0].numel() + group.pad(x)[0].numel()
        weights = 1.0 + state_norm + injection_norm + euclidean(state) + inputs
        lost = underflow(x.dtype, entries, terms * self.state_features) * (1.0 + group.norm) * weights
        return guarantee.defect_bound(state, defect), guarantee.defect_bound(state, lost) + lost

    def get_extra_state(self) -> Tensor:
        """κ and ω, which decide what the weights mean and so must travel with them."""
        return torch.tensor([self.kappa, self.omega], dtype=torch.float64)

    def set_extra_state(self, state: Any) -> None:
        """Refuse weights that were made with others."""
        found = torch.as_tensor(state, dtype=torch.float64).tolist()
        if found != [self.kappa, self.omega]:
            raise InputError(
                f"kappa, omega = {[self.kappa, self.omega]}: the checkpoint was made with {found}; build the layer so"
            )

    def extra_repr(self) -> str:
        """Shown inside ``repr``."""
        return f"variant={self.variant!r}, kappa={self.kappa:g}, omega={self.omega:g}"


def _node_activation(name: str, variant: str, features: int) -> Callable[[Tensor], Tensor]:
    if name == "group_sort":
        if variant == "ignn":
            raise InputError(
                "activation='group_sort': mixes features, which the variant 'ignn' excludes; use 'orthogonal'"
            )
        check(features % 2 == 0, "state_features", features, "must be even for group_sort")
        return group_sort
    found = activation_named(name)
    require_fixing_zero(found)
    return found


def require_fixing_zero(activation: Any) -> None:
    """Refuse activations with slopes outside of [0, 1], and those that move zero, as nodes that are padding must stay zero."""
    if not isinstance(activation, Activation):
        raise InputError(f"activation={activation!r}: must be an Activation or group_sort")
    activation.require_monotone("an implicit graph layer")
    fixed = float(activation(torch.zeros(()))) == 0.0
    check(fixed, "activation", activation, "must map zero to zero, for nodes that are padding")

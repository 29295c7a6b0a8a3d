"""Implicit graph networks: node states that solve an equation over the whole graph (Gu et al. 2020), in three variants."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from typing_extensions import override

from wellposed.activations import Activation
from wellposed.activations import activation as activation_named
from wellposed.constraints.base import check_size
from wellposed.constraints.factorisations import proved_once
from wellposed.constraints.perron_frobenius import RowBounded
from wellposed.errors import GuaranteeError, InputError, check, checked_options, choices
from wellposed.layers.contractive_cell import NORM_SLACK
from wellposed.layers.graph_solving import GraphSolving
from wellposed.layers.group_sort import group_sort
from wellposed.layers.options import SolveOptions
from wellposed.layers.orthogonal_linear import OrthogonalLinear
from wellposed.maps.checks import check_map, require_kind
from wellposed.names import GRAPH_VARIANTS
from wellposed.numerics.outward import enlarged, enlarged_sum
from wellposed.numerics.verified import spectral_norm_upper_bound

ADJACENCY = 1.0 + 1e-12  # up to this norm a stored adjacency counts as one of norm one, which rounding may exceed


class ImplicitGraph(GraphSolving):
    """Node states X with ``X = σ(A X Wᵀ + A U Ωᵀ + b)``, one equation per graph, for node features U.

    ``"ignn"``: ‖W‖_∞ ≤ κ by projecting rows; σ acts coordinate by coordinate (Gu et al. 2020, Perron–Frobenius).
    ``"orthogonal"``: W = κQ with Q orthogonal; any σ that is 1-Lipschitz, GroupSort included (‖·‖_F contraction).
    ``"lipschitz"``: W = κ(1 − ω)Q, Ω = κω·P with Q orthogonal and P semi-orthogonal: U ↦ X is κω/(1 − κ(1 − ω)) ≤ 1 Lipschitz
    in the Frobenius norm on every graph with ‖A‖₂ ≤ 1, as after symmetric normalisation.

    Args:
        in_features: features of a node.
        state_features: features of its state.
        variant: ``"ignn"``, ``"orthogonal"`` or ``"lipschitz"``.
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
        choices("variant", variant, GRAPH_VARIANTS)
        most = 1.0 if variant == "lipschitz" else math.nextafter(1.0, 0.0)
        check(0.0 < kappa <= most, "kappa", kappa, "must lie in (0, 1), or be 1 for the variant 'lipschitz'")
        check(0.0 < omega <= 1.0, "omega", omega, "must lie in (0, 1]")
        self.activation = _node_activation(activation, variant, state_features)
        self.in_features, self.state_features, self.variant = in_features, state_features, variant
        self.kappa, self.omega = float(kappa), float(omega)
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.state_map: RowBounded | OrthogonalLinear
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
        choices("variant", self.variant, GRAPH_VARIANTS)
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
    @override
    def scales(self) -> tuple[float, float]:
        if self.variant == "ignn":
            return 1.0, 1.0
        if self.variant == "orthogonal":
            return self.kappa, 1.0
        return self.kappa * (1.0 - self.omega), self.kappa * self.omega

    @override
    def norms(self, *, proved: bool) -> tuple[float, float | None]:
        weight = self.state_map.weight.detach()
        if self.variant != "ignn":
            norm = proved_once(self, spectral_norm_upper_bound, weight) if proved else 1.0 + NORM_SLACK[weight.dtype]
            return enlarged(self.scales[0] * norm, 3), None
        rows = proved_once(self, _largest_row, weight)
        if proved:
            return proved_once(self, spectral_norm_upper_bound, weight), rows
        return enlarged(math.sqrt(rows * proved_once(self, _largest_row, weight.t())), 2), rows

    def lipschitz(self) -> tuple[float, str]:
        """Frobenius Lipschitz constant of U ↦ X for the stored numbers, on every graph with ‖A‖₂ ≤ 1, and its reason.

        Raises:
            GuaranteeError: the state map contracts in a maximum norm only.
        """
        factor = self.norms(proved=True)[0] * ADJACENCY
        if factor >= 1.0:
            raise GuaranteeError("W contracts in a weighted maximum norm only; there is no constant for all graphs")
        injection = (
            self.scales[1] * proved_once(self.injection, spectral_norm_upper_bound, self.injection.weight) * ADJACENCY
        )
        value = enlarged(injection / (1.0 - enlarged(factor, 1)), 6)
        return value, f"implicit graph layer: ‖Ω‖₂/(1 − ‖W‖₂) with ‖W‖₂ = {factor:.6g}, for ‖A‖₂ ≤ 1"

    def get_extra_state(self) -> Tensor:
        """κ and ω, which decide what the weights mean and so must travel with them."""
        return torch.tensor([self.kappa, self.omega], dtype=torch.float64, device="cpu")

    def set_extra_state(self, state: Any) -> None:
        """Refuse weights that were made with others."""
        found = torch.as_tensor(state, dtype=torch.float64, device="cpu").tolist()
        if found != [self.kappa, self.omega]:
            raise InputError(
                f"kappa, omega = {[self.kappa, self.omega]}: the checkpoint was made with {found}; build the layer so"
            )

    @override
    def extra_repr(self) -> str:
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
    fixed = float(activation(torch.zeros((), device="cpu"))) == 0.0
    check(fixed, "activation", activation, "must map zero to zero, for nodes that are padding")


def _largest_row(weight: Tensor) -> float:
    """The largest sum of absolute values of a row, from above."""
    return enlarged_sum(float(weight.double().abs().sum(1).amax()), weight.shape[1])

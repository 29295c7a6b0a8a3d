"""Orthogonal equilibrium networks, with a Lipschitz constant of one by construction (after Singh & Lou)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from typing_extensions import override

from wellposed.constraints.base import check_size
from wellposed.errors import check, checked_options, choices
from wellposed.layers.contractive_cell import ContractiveCell, mixing_numbers, mixing_weights
from wellposed.layers.group_sort import group_sort, householder
from wellposed.layers.options import SolveOptions
from wellposed.layers.orthogonal_linear import OrthogonalLinear, require_orthogonal
from wellposed.names import COUPLINGS
from wellposed.numerics.euclidean import euclidean
from wellposed.numerics.outward import enlarged, rounding_constant

_REFLECTIONS = 1e-15  # by how much computed reflections may exceed norm one


class OrthogonalDEQ(ContractiveCell):
    """The equilibrium of a cell made of orthogonal maps and GroupSort, in one of four couplings with the input.

    With ``g(z) = S(Q_d … S(Q_1 z + b_1) … + b_d)``, S = GroupSort, and ``h(x) = P x + c``, P semi-orthogonal:
    ``"convex"`` ``z = κ((1 − ω)g(z) + ω h(x))`` is κω/(1 − κ(1 − ω)) ≤ 1 Lipschitz, also for κ = 1;
    ``"additive"`` ``z = κ g(z) + h(x)`` is 1/(1 − κ) Lipschitz;
    ``"joint"`` ``z = κ S(Q[z; ρx] + b)``, with Q semi-orthogonal and ρ = √(1 − κ²)/κ, is 1-Lipschitz;
    ``"residual"`` ``z = κ S(a₂z + (1 − a₂)(a₁h(x) + (1 − a₁)g(z)))``, with learned mixing weights a in (0.05, 0.95), is
    κω/(1 − κ(1 − ω)) ≤ 1 Lipschitz for ω = a₁(1 − a₂), also for κ = 1.
    Without an input inside, as in the original note, the equilibrium would be the same for all data.

    Args:
        in_features: size of the last dimension of the input.
        state_features: size of the equilibrium, divisible by ``group``.
        coupling: ``"convex"``, ``"additive"``, ``"joint"`` or ``"residual"``.
        kappa: κ in (0, 1), or 1 for ``"convex"`` and ``"residual"``; None for 1 there and 0.7 elsewhere.
        omega: ω in (0, 1], for ``"convex"``.
        depth: number of orthogonal maps in g.
        group: size of the sorted groups: 2 for MaxMin, ``state_features`` for a full sort.
        activation: ``"group_sort"``, or ``"householder"``, which learns the reflections.
        parametrisation: of the orthogonal maps, see `OrthogonalLinear`.
        device: where the weights are created.
        dtype: their dtype.
        options: see `SolveOptions`; solver None is `Picard`, and tolerances are eps^(1/2) by default.
    """

    @checked_options
    def __init__(
        self,
        in_features: int,
        state_features: int,
        *,
        coupling: str = "convex",
        kappa: float | None = None,
        omega: float = 0.5,
        depth: int = 1,
        group: int = 2,
        activation: str = "group_sort",
        parametrisation: str = "cayley",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[SolveOptions],
    ) -> None:
        super().__init__(**options)
        check_size(state_features)
        choices("coupling", coupling, COUPLINGS)
        choices("activation", activation, ("group_sort", "householder"))
        mixes = coupling in ("convex", "residual")
        kappa = (1.0 if mixes else 0.7) if kappa is None else kappa
        fits = 0.0 < kappa <= 1.0 if mixes else 0.0 < kappa < 1.0
        check(fits, "kappa", kappa, "must lie in (0, 1), or be 1 for the convex and residual couplings")
        check(0.0 < omega <= 1.0, "omega", omega, "must lie in (0, 1]")
        check(
            group >= 1 and state_features % group == 0, "group", group, f"must divide {state_features} state features"
        )
        check(depth >= 1 and (depth == 1 or coupling != "joint"), "depth", depth, "must be positive, and 1 if joint")
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.coupling, self.kappa, self.omega, self.group = coupling, float(kappa), float(omega), group
        self.in_features, self.state_features = in_features, state_features
        inputs = state_features + (in_features if coupling == "joint" else 0)
        orthogonal: dict[str, Any] = {"parametrisation": parametrisation, **where}
        self.maps = nn.ModuleList(OrthogonalLinear(inputs, state_features, **orthogonal) for _ in range(depth))
        self.injection = None if coupling == "joint" else OrthogonalLinear(in_features, state_features, **orthogonal)
        self.angles: nn.ParameterList | None = None
        if activation == "householder":
            check(group == 2, "group", group, "must be 2 for the activation 'householder'")
            half = torch.full((state_features // 2,), 0.5 * math.pi, **where)
            self.angles = nn.ParameterList(half.clone() for _ in range(depth + (coupling == "residual")))
        self.mixing = nn.Parameter(torch.zeros(2, **where)) if coupling == "residual" else None

    def check_parts(self) -> None:
        """Raise an error if a part or an option was replaced by one that the theorem of this layer is not about."""
        choices("coupling", self.coupling, COUPLINGS)
        mixes, joint = self.coupling in ("convex", "residual"), self.coupling == "joint"
        size, depth = self.state_features, len(self.maps)
        fits = 0.0 < self.kappa <= 1.0 if mixes else 0.0 < self.kappa < 1.0
        check(
            fits and 0.0 < self.omega <= 1.0,
            "kappa, omega",
            (self.kappa, self.omega),
            "outside of what the theorem allows",
        )
        check(self.group >= 1 and size % self.group == 0, "group", self.group, f"must divide {size} state features")
        check(depth >= 1 and (depth == 1 or not joint), "maps", depth, "must be at least one, and one if joint")
        for part in self.maps:
            require_orthogonal("maps", part, size + (self.in_features if joint else 0), size)
        check(
            (self.injection is None) == joint,
            "injection",
            self.injection,
            f"does not go with the coupling {self.coupling!r}",
        )
        if self.injection is not None:
            require_orthogonal("injection", self.injection, self.in_features, size)
        mixing, angles = self.mixing, self.angles
        residual = self.coupling == "residual"
        check((mixing is not None) == residual, "mixing", mixing, f"does not go with the coupling {self.coupling!r}")
        check(mixing is None or mixing.shape == (2,), "mixing", mixing, "must be two numbers")
        turned = angles is None or (self.group == 2 and len(angles) == depth + residual)
        turned = turned and all(angle.shape == (size // 2,) for angle in angles or ())
        check(turned, "angles", angles, f"must be {depth + residual} vectors of {size // 2} angles, for groups of two")

    @override
    def constants(self, excess: float) -> tuple[float, float]:
        # The rounding of the activation's reflections is a part of the excess.
        size, kappa = 1.0 + excess, self.kappa
        count = len(self.maps) * (1 if self.angles is None else 2)
        norm = enlarged(size**count, count + 2)
        if self.mixing is not None:
            first, second = mixing_numbers(self.mixing)
            contraction = kappa * (second + (1.0 - second) * (1.0 - first) * norm) * size
            return self._constants(contraction, kappa * (1.0 - second) * first * size**2)
        if self.coupling == "convex":
            return self._constants(kappa * (1.0 - self.omega) * norm, kappa * self.omega * size)
        if self.coupling == "additive":
            return self._constants(kappa * norm, size)
        # √(1 − κ²)·c/(κ√(1 − c²)) for the contraction c.
        contraction = kappa * norm
        apart = max(1.0 - contraction, 0.0) / (1.0 + contraction)
        driven = math.sqrt((1.0 - kappa) * (1.0 + kappa)) / kappa * contraction * math.sqrt(apart)
        return self._constants(contraction, driven)

    @property
    @override
    def _parts(self) -> list[OrthogonalLinear]:
        return [part for part in self.maps if isinstance(part, OrthogonalLinear)]

    @override
    def norm_excess(self) -> float:
        parts = self._parts if self.injection is None else [*self._parts, self.injection]
        return max(part.norm_excess() for part in parts) + _REFLECTIONS

    @override
    def _described(self) -> str:
        return f"orthogonal cell, {self.coupling} coupling, κ = {self.kappa:g}, ω = {self.omega:g}"

    @override
    def _cell(self, rows: Tensor, dtype: torch.dtype) -> tuple[Callable[..., Tensor], tuple[Tensor, ...], Tensor]:
        x = rows.to(dtype)
        weights = [t.to(dtype) for part in self._parts for t in (part.lent_weight(), part.bias) if t is not None]
        kappa, omega, group, depth = self.kappa, self.omega, self.group, len(self.maps)
        if self.mixing is not None:
            weights.append(mixing_weights(self.mixing, dtype))
        if self.angles is not None:
            weights.extend(angle.to(dtype) for angle in self.angles)

        def activate(z: Tensor, index: int, rest: tuple[Tensor, ...]) -> Tensor:
            if self.angles is None:
                return group_sort(z, group)
            return householder(z, rest[len(rest) - len(self.angles) + index])

        size = self.state_features
        if self.injection is None:
            ratio = math.sqrt(1.0 - kappa**2) / kappa
            drive = kappa * torch.addmm(weights[1], x, weights[0][:, size:].t(), alpha=ratio)

            def joint(z: Tensor, drive: Tensor, weight: Tensor, bias: Tensor, *rest: Tensor) -> Tensor:
                return activate(torch.addmm(drive, z, weight[:, :size].t(), alpha=kappa), 0, rest)

            return joint, tuple(weights), drive
        bias = self.injection.bias
        assert bias is not None
        inner, outer = (kappa * (1.0 - omega), kappa * omega) if self.coupling == "convex" else (kappa, 1.0)
        outer = 1.0 if self.mixing is not None else outer  # the learned weights come later
        drive = torch.addmm(bias.to(dtype), x, self.injection.lent_weight().to(dtype).t(), beta=outer, alpha=outer)

        def maps(z: Tensor, weights: tuple[Tensor, ...], share: float = 1.0) -> Tensor:
            """A share of g(z): sorting and reflections commute with positive factors."""
            for index in range(depth):
                factor = share if index == depth - 1 else 1.0
                weight, shift = weights[2 * index : 2 * index + 2]
                z = activate(torch.addmm(shift, z, weight.t(), beta=factor, alpha=factor), index, weights)
            return z

        def cell(z: Tensor, drive: Tensor, *weights: Tensor) -> Tensor:
            return maps(z, weights, inner) + drive

        def residual(z: Tensor, drive: Tensor, *weights: Tensor) -> Tensor:
            first, second = weights[2 * depth]
            mixed = first * drive + (1.0 - first) * maps(z, weights)
            return kappa * activate(second * z + (1.0 - second) * mixed, depth, weights)

        return (cell if self.mixing is None else residual), tuple(weights), drive

    @property
    @override
    def input_shape(self) -> tuple[int, ...]:
        return (self.in_features,)

    @property
    @override
    def state_shape(self) -> tuple[int, ...]:
        return (self.state_features,)

    @override
    def _evaluation_error(self, x: Tensor, value: Tensor) -> Tensor:
        bias = sum(euclidean(part.bias.detach()[None]) for part in self._parts if part.bias is not None)
        if self.injection is not None and self.injection.bias is not None:
            bias = bias + euclidean(self.injection.bias.detach()[None])
        # γ_n of every product in float64, with matrices of Frobenius norm at most √state_features, and a few roundings more.
        terms = sum(part.in_features + 16 for part in self._parts) + self.in_features + 16
        scale = (self.state_features + 1.0) ** 0.5 / min(self.kappa, 1.0)
        size = euclidean(x) + bias + 2.0 * len(self._parts) * euclidean(value)
        return rounding_constant(4 * terms) * scale * size

    @override
    def extra_repr(self) -> str:
        return f"coupling={self.coupling!r}, kappa={self.kappa:g}, omega={self.omega:g}, group={self.group}"

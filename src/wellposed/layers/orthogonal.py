"""Orthogonal equilibrium networks, with a Lipschitz constant of one by construction (after Singh & Lou)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from wellposed.autograd import PositionalFunction
from wellposed.constraints.base import Projected, check_size
from wellposed.constraints.orthogonal import bjorck_orthogonal, cayley_orthogonal, skew_exponential
from wellposed.errors import GuaranteeError, InputError, check, checked_options, choices
from wellposed.fixed_point import fixed_point
from wellposed.guarantee import Contraction
from wellposed.layers.implicit_layer import ImplicitLayer
from wellposed.layers.options import SolveOptions
from wellposed.linear_algebra import full_precision
from wellposed.norms import euclidean
from wellposed.solvers import Picard
from wellposed.solvers.solution import Solution
from wellposed.verified import spectral_norm_upper_bound

COUPLINGS = ("convex", "additive", "joint", "residual")

# By how much a computed orthogonal matrix may exceed norm one while training; evidence and certificates prove it instead.
NORM_SLACK = {torch.float32: 1e-4, torch.float64: 1e-10}


class OrthogonalLinear(nn.Module, Projected):
    """``x·Qᵀ + b`` with a (semi-)orthogonal Q of shape (out_features, in_features): 1-Lipschitz, isometric unless Q is wide.

    Args:
        in_features: inputs.
        out_features: outputs.
        parametrisation: ``"cayley"``, ``"exponential"`` (twice to ten times as expensive; its base point follows the
            parameter if `project` is called after every optimiser step, as the training command does) or ``"bjorck"``; see
            `wellposed.constraints.orthogonal`.
        bias: whether there is a bias.
        device: where the parameters are created.
        dtype: their dtype.
    """

    rebase_every = 100  # calls of `project`
    base: Tensor
    calls: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        parametrisation: str = "cayley",
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check(in_features > 0, "in_features", in_features, "must be a positive integer")
        check(out_features > 0, "out_features", out_features, "must be a positive integer")
        choices("parametrisation", parametrisation, ("cayley", "exponential", "bjorck"))
        self.in_features, self.out_features, self.parametrisation = in_features, out_features, parametrisation
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        if parametrisation == "exponential":
            size = max(in_features, out_features)
            self.free = nn.Parameter(torch.zeros(size, size, **where))
            self.register_buffer("base", nn.init.orthogonal_(torch.empty(size, size, **where)))
            self.register_buffer("calls", torch.zeros((), dtype=torch.int64, device=device))
        else:
            self.free = nn.Parameter(torch.empty(out_features, in_features, **where))
            if parametrisation == "cayley":
                nn.init.normal_(self.free, std=min(in_features, out_features) ** -0.5)
            else:
                nn.init.orthogonal_(self.free)
        self.bias = nn.Parameter(torch.zeros(out_features, **where)) if bias else None

    @property
    def weight(self) -> Tensor:
        """Q, with its graph."""
        with full_precision(self.free.device):
            if self.parametrisation == "cayley":
                return cayley_orthogonal(self.free)
            if self.parametrisation == "bjorck":
                return bjorck_orthogonal(self.free)
            return (self.base @ skew_exponential(self.free))[: self.out_features, : self.in_features]

    @torch.no_grad()
    def project(self) -> None:
        """Every hundredth call: make Q the new base point of the exponential, cleaned of rounding by a polar factor."""
        if self.parametrisation != "exponential":
            return
        self.calls += 1
        if int(self.calls) % self.rebase_every == 0:
            self.rebase()

    @torch.no_grad()
    def rebase(self) -> None:
        """Make Q the new base point of the exponential and the parameter zero; Q stays the same."""
        left, _, right = torch.linalg.svd((self.base @ skew_exponential(self.free)).double())
        self.base.copy_(left @ right)
        self.free.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Shape (*, in_features) to (*, out_features)."""
        return nn.functional.linear(x, self.weight, self.bias)


def group_sort(value: Tensor, group: int = 2) -> Tensor:
    """Sort within groups of features (group 2: MaxMin): 1-Lipschitz in every norm, and norm preserving.

    Of n features, i, i + n/group, i + 2n/group, … are a group: rows of neighbours are what processors are fast at.

    Args:
        value: shape (*, features), features divisible by ``group``.
        group: size of the groups.
    """
    grouped = value.unflatten(-1, (group, -1))
    if group == 2:  # several times as fast as sorting, forwards and backwards
        first, second = grouped.detach().unbind(-2)
        return _Swap.apply(grouped, (first > second).unsqueeze(-2)).flatten(-2)
    return grouped.sort(dim=-2).values.flatten(-2)


class _Swap(PositionalFunction):
    """Pairs, those marked in reverse: linear, and its own adjoint."""

    @staticmethod
    def forward(pairs: Tensor, marked: Tensor) -> Tensor:
        return torch.where(marked, pairs.flip(-2), pairs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])
        ctx.save_for_forward(inputs[1])

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        return _Swap.apply(cotangents[0], ctx.saved_tensors[0]), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return _Swap.apply(tangents[0], ctx.saved_tensors[0])

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], pairs: Tensor, marked: Tensor) -> Any:
        pairs, marked = (
            part.expand(info.batch_size, *part.shape) if place is None else part.movedim(place, 0)
            for part, place in ((pairs, in_dims[0]), (marked, in_dims[1]))
        )
        return _Swap.apply(pairs, marked), 0


def householder(value: Tensor, angle: Tensor) -> Tensor:
    """Reflect pairs of features into the half-plane ``vᵀz ≥ 0``, v = (sin θ/2, −cos θ/2): 1-Lipschitz and norm preserving.

    At θ = π/2 this is MaxMin, in one of its two orders. The pairs are features i and i + n/2.

    Args:
        value: shape (*, n), n even.
        angle: θ, shape (n/2,).
    """
    first, second = value.chunk(2, -1)
    sine, cosine = torch.sin(angle), torch.cos(angle)
    across = torch.sin(0.5 * angle) * first - torch.cos(0.5 * angle) * second
    # I − 2vvᵀ = [[cos θ, sin θ], [sin θ, −cos θ]]
    mirrored = torch.cat([cosine * first + sine * second, sine * first - cosine * second], -1)
    keep = (across.detach() > 0.0).repeat(*[1] * (value.ndim - 1), 2)
    return torch.where(keep, value, mirrored)


class GroupSort(nn.Module):
    """`group_sort` as a module.

    Args:
        group: size of the groups.
    """

    def __init__(self, group: int = 2) -> None:
        super().__init__()
        check(group >= 1, "group", group, "must be at least 1")
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return group_sort(x, self.group)


class OrthogonalDEQ(ImplicitLayer):
    """The equilibrium of a cell made of orthogonal maps and GroupSort, in one of three couplings with the input.

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
        coupling: see above.
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

    def _constants(self, excess: float) -> tuple[float, float]:
        """Lipschitz constants of the cell in z and of the equilibrium in x, when every orthogonal map has norm ≤ 1 + excess."""
        # One rounding error of the activation's reflections is a part of the excess.
        norm = (1.0 + excess) ** (len(self.maps) * (1 if self.angles is None else 2))
        if self.mixing is not None:
            first, second = (float(a) for a in self._mixing_weights(torch.float64).detach())
            contraction = self.kappa * (second + (1.0 - second) * (1.0 - first) * norm) * (1.0 + excess)
            input_constant = self.kappa * (1.0 - second) * first * (1.0 + excess) ** 2
        elif self.coupling == "convex":
            contraction, input_constant = (
                self.kappa * (1.0 - self.omega) * norm,
                self.kappa * self.omega * (1.0 + excess),
            )
        elif self.coupling == "additive":
            contraction, input_constant = self.kappa * norm, 1.0 + excess
        else:
            contraction = self.kappa * norm
            if contraction < 1.0:
                ratio = math.sqrt(1.0 - self.kappa**2) / self.kappa
                return contraction, contraction * ratio / math.sqrt(1.0 - contraction**2) * (1.0 + 1e-14)
        if contraction >= 1.0:
            raise GuaranteeError(
                f"kappa={self.kappa}: the cell need not contract in these numbers; use a smaller kappa"
            )
        return contraction, input_constant / (1.0 - contraction) * (1.0 + 1e-14)

    def _mixing_weights(self, dtype: torch.dtype) -> Tensor:
        """(a₁, a₂), in (0.05, 0.95)."""
        assert self.mixing is not None
        return 0.05 + 0.9 * torch.sigmoid(self.mixing.to(dtype))

    @property
    def _parts(self) -> list[OrthogonalLinear]:
        return [part for part in self.maps if isinstance(part, OrthogonalLinear)]

    @property
    def _dtype(self) -> torch.dtype:
        return self._parts[0].free.dtype

    def _excess(self) -> float:
        """By how much the stored orthogonal maps exceed norm one, proved; at least zero."""
        parts = self._parts if self.injection is None else [*self._parts, self.injection]
        return max(0.0, *(spectral_norm_upper_bound(part.weight) - 1.0 for part in parts)) + 1e-15

    def lipschitz(self) -> tuple[float, str]:  # noqa: D102
        value = self._constants(self._excess())[1]
        return value, f"orthogonal cell, {self.coupling} coupling, κ = {self.kappa:g}, ω = {self.omega:g}"

    def _cell(self, rows: Tensor, dtype: torch.dtype) -> tuple[Callable[..., Tensor], tuple[Tensor, ...], Tensor]:
        """The map z ↦ F(z, drive, *weights), its weights as they run, and the drive: what x contributes."""
        x = rows.to(dtype)
        weights = [t.to(dtype) for part in self._parts for t in (part.weight, part.bias) if t is not None]
        kappa, omega, group, depth = self.kappa, self.omega, self.group, len(self.maps)
        if self.mixing is not None:
            weights.append(self._mixing_weights(dtype))
        if self.angles is not None:
            weights.extend(angle.to(dtype) for angle in self.angles)

        def activate(z: Tensor, index: int, rest: tuple[Tensor, ...]) -> Tensor:
            if self.angles is None:
                return group_sort(z, group)
            return householder(z, rest[len(rest) - len(self.angles) + index])

        size = self.state_features
        if self.injection is None:
            ratio = math.sqrt(1.0 - kappa**2) / kappa
            drive = ratio * (x @ weights[0][:, size:].t()) + weights[1]

            def joint(z: Tensor, drive: Tensor, weight: Tensor, bias: Tensor, *rest: Tensor) -> Tensor:
                return kappa * activate(z @ weight[:, :size].t() + drive, 0, rest)

            return joint, tuple(weights), drive
        bias = self.injection.bias
        assert bias is not None
        drive = x @ self.injection.weight.to(dtype).t() + bias.to(dtype)
        inner, outer = (kappa * (1.0 - omega), kappa * omega) if self.coupling == "convex" else (kappa, 1.0)

        def maps(z: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
            for index in range(depth):
                z = activate(torch.addmm(weights[2 * index + 1], z, weights[2 * index].t()), index, weights)
            return z

        def cell(z: Tensor, drive: Tensor, *weights: Tensor) -> Tensor:
            return inner * maps(z, weights) + outer * drive

        def residual(z: Tensor, drive: Tensor, *weights: Tensor) -> Tensor:
            first, second = weights[2 * depth]
            mixed = first * drive + (1.0 - first) * maps(z, weights)
            return kappa * activate(second * z + (1.0 - second) * mixed, depth, weights)

        return (cell if self.mixing is None else residual), tuple(weights), drive

    def _solve(self, x: Tensor, z0: Tensor | None, dtype: torch.dtype, guarantee: Contraction) -> Solution[Tensor]:
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            raise InputError(f"x: has shape {tuple(x.shape)}, but the layer takes {self.in_features} features")
        weight = self._parts[0].free
        if weight.dtype not in NORM_SLACK:
            raise InputError(f"dtype={weight.dtype}: equilibria need float32 or float64 weights")
        if x.dtype != weight.dtype:
            raise InputError(f"x: has dtype {x.dtype}, the weights have {weight.dtype}; convert one of them")
        rows = x.reshape(-1, self.in_features)
        cell, weights, drive = self._cell(rows, dtype)
        start = torch.zeros_like(drive) if z0 is None else z0.reshape(-1, self.state_features).to(dtype)
        if not torch._C._functorch.is_functorch_wrapped_tensor(drive) and not bool(torch.isfinite(drive).all()):
            raise InputError("x: the input or the weights have NaN or infinite entries")
        default = torch.finfo(weight.dtype).eps ** 0.5
        rtol, atol = (default if t is None else t for t in (self.tolerance.rtol, self.tolerance.atol))
        found = fixed_point(
            cell, start.detach(), (drive, *weights), solver=Picard() if self.solver is None else self.solver,
            rtol=rtol, atol=atol, max_steps=self.max_steps, guarantee=guarantee, gradient=self.gradient,
            batched_args=(0,), on_failure=self.on_failure,
        )  # fmt: skip
        lead = x.shape[:-1]
        report = found if len(lead) == 1 else found.reshape(lead)
        value = found.value.to(weight.dtype)
        bound = report.error_bound
        if bound is not None and dtype != weight.dtype:
            rounding = euclidean(value.detach().double() - found.value.detach()).reshape(lead)
            bound = bound + rounding
        codes, residual, steps, _ = report.fields()
        return Solution(codes, residual, steps, bound, value.reshape(*lead, -1), found.adjoint_reports)

    def state(self, x: Tensor) -> Tensor:  # noqa: D102
        dtype = self._dtype
        factor = self._constants(NORM_SLACK.get(dtype, 0.0))[0]
        return self._solve(x, None, dtype, Contraction(factor)).value

    @checked_options
    def solve(self, x: Tensor, z0: Tensor | None = None) -> Solution[Tensor]:
        """The equilibrium with its evidence; solved in float64 for the orthogonal maps as stored.

        Args:
            x: shape (*, in_features).
            z0: first iterate of shape (*, state_features).
        """
        factor = self._constants(self._excess())[0]
        found = self._solve(x, z0, torch.float64, Contraction(factor, 0.0))
        bias = sum(float(part.bias.detach().double().norm()) for part in self._parts if part.bias is not None)
        if self.injection is not None and self.injection.bias is not None:
            bias += float(self.injection.bias.detach().double().norm())
        # γ_n of every product in float64, with matrices of Frobenius norm at most √state_features, and a few roundings more.
        terms = sum(part.in_features + 16 for part in self._parts) + self.in_features + 16
        scale = (self.state_features + 1.0) ** 0.5 / min(self.kappa, 1.0)
        size = euclidean(x.detach().reshape(-1, self.in_features)) + bias
        size = size.reshape(x.shape[:-1]) + 2.0 * len(self._parts) * torch.linalg.vector_norm(
            found.value.detach().double(), dim=-1
        )
        rounding = 2.0 * terms * torch.finfo(torch.float64).eps * scale * size / (1.0 - factor)
        assert found.error_bound is not None  # a guarantee was given
        return dataclasses.replace(found, error_bound=found.error_bound + rounding)

    def extra_repr(self) -> str:
        """Shown inside ``repr``."""
        return f"coupling={self.coupling!r}, kappa={self.kappa:g}, omega={self.omega:g}, group={self.group}"

"""Layers whose equilibrium is the fixed point of a contraction made of orthogonal maps: solving, evidence and constants."""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from wellposed.any_map import fixed_point_with
from wellposed.constraints.factorisations import is_transformed
from wellposed.errors import GuaranteeError, check, checked_options
from wellposed.guarantee import Contraction
from wellposed.implicit import Settings
from wellposed.layers.approach import approached, may_begin
from wellposed.layers.implicit_layer import ImplicitLayer
from wellposed.layers.inputs import check_finite, check_numbers, check_samples, check_start, in_precision_of
from wellposed.numerics.euclidean import euclidean, underflow
from wellposed.numerics.linear_algebra import full_precision
from wellposed.numerics.outward import enlarged
from wellposed.numerics.uncompiled import uncompiled
from wellposed.solvers.problem import MapProblem
from wellposed.solvers.solution import Solution, Status

# By how much a computed orthogonal map may exceed norm one while training; evidence and certificates prove it instead.
NORM_SLACK = {torch.float32: 1e-4, torch.float64: 1e-10}
LEAST_MIXING = 0.05  # of the learned shares, which are below one by as much
_OPERATIONS = 16  # at most, by which the cells compute their constants


class ContractiveCell(ImplicitLayer):
    """``z* = F(z*, x)`` for a cell F whose Lipschitz constants follow from those of its orthogonal maps.

    Attributes:
        kappa: κ, in (0, 1]. Saved with the weights.
        omega: ω, in (0, 1]. Saved with the weights.
    """

    kappa: float
    omega: float

    def get_extra_state(self) -> Tensor:
        """κ and ω, which decide what the weights mean and so must travel with them."""
        return torch.tensor([self.kappa, self.omega], dtype=torch.float64, device="cpu")

    def set_extra_state(self, state: Any) -> None:
        """Restore κ and ω from a state dict."""
        kappa, omega = (float(value) for value in state)
        check(0.0 < kappa <= 1.0, "kappa", kappa, "the checkpoint's value is unusable")
        check(0.0 < omega <= 1.0, "omega", omega, "the checkpoint's value is unusable")
        self.kappa, self.omega = kappa, omega

    @property
    @abstractmethod
    def _parts(self) -> list[Any]:
        """The orthogonal maps that act on the state, each with its parameter ``free``."""

    @abstractmethod
    def norm_excess(self) -> float:
        """By how much the stored orthogonal maps exceed norm one, proved; at least zero."""

    @abstractmethod
    def constants(self, excess: float) -> tuple[float, float]:
        """Lipschitz constants of the cell in z and of the equilibrium in x, when every orthogonal map has norm ≤ 1 + excess."""

    def _constants(self, contraction: float, driven: float) -> tuple[float, float]:
        """A contraction c, and what it makes of the cell's constant d in the input, d/(1 − c); rounded up.

        Args:
            contraction: c, computed by up to sixteen rounded operations.
            driven: d, computed by up to sixteen.

        Raises:
            GuaranteeError: c is not below one.
        """
        factor = enlarged(contraction, _OPERATIONS)
        if factor >= 1.0:
            raise GuaranteeError(
                f"kappa={self.kappa}: the cell need not contract in these numbers; use a smaller kappa"
            )
        return factor, enlarged(driven / (1.0 - factor), _OPERATIONS + 2)

    def step_factor(self, excess: float) -> float:
        """Contraction factor of the map that `_cell` gives, when every orthogonal map has norm ≤ 1 + excess."""
        return self.constants(excess)[0]

    def _packed(self, state: Tensor) -> Tensor:
        """States of shape (batch, *state_shape) as `_cell` takes them, shape (batch, …)."""
        return state

    def _unpacked(self, rows: Tensor) -> Tensor:
        """The inverse of `_packed`."""
        return rows

    @abstractmethod
    def _cell(self, rows: Tensor, dtype: torch.dtype) -> tuple[Callable[..., Tensor], tuple[Tensor, ...], Tensor]:
        """A map z ↦ F(z, drive, *weights) with this equilibrium, its weights as they run, and the drive: what x contributes."""

    @abstractmethod
    def _evaluation_error(self, x: Tensor, value: Tensor) -> Tensor:
        """Bound on the Euclidean rounding error of one evaluation of F in float64, one per sample.

        Args:
            x: inputs, shape (batch, *input_shape).
            value: equilibria, float64, shape (batch, *state_shape).
        """

    @abstractmethod
    def _described(self) -> str:
        """The cell in words."""

    @override
    def lipschitz(self) -> tuple[float, str]:
        return self.constants(self.norm_excess())[1], self._described()

    @override
    def limits(self) -> tuple[float, float]:
        return self.limits_by_root(self._parts[0].free.dtype)

    def evaluation_rounding(self, dtype: torch.dtype) -> tuple[float, float, float]:
        """Error of the equilibrium by rounding in a precision: a constant, per ‖x‖ and per ‖z‖."""
        parts = [
            torch.zeros(3, *shape, dtype=torch.float64, device="cpu") for shape in (self.input_shape, self.state_shape)
        ]
        parts[0][1].view(-1)[0] = parts[1][2].view(-1)[0] = 1.0
        none, inside, outside = self._evaluation_error(*parts).tolist()
        factor = self.constants(max(self.norm_excess(), NORM_SLACK.get(dtype, 0.0)))[0]
        scale = torch.finfo(dtype).eps / torch.finfo(torch.float64).eps / (1.0 - factor)
        lost = self._underflow(dtype) / (1.0 - factor)
        return scale * none + lost, scale * (inside - none), scale * (outside - none)

    def _underflow(self, dtype: torch.dtype) -> float:
        """What underflow takes from one evaluation of F, of numbers that are stored in a dtype, for x and z of norm one."""
        size = sum(parameter.numel() for parameter in self.parameters())
        size += math.prod(self.input_shape) + math.prod(self.state_shape)
        return underflow(dtype, size, size) / self.kappa

    def _solve(
        self, x: Tensor, z0: Tensor | None, dtype: torch.dtype, guarantee: Contraction, settings: Settings,
        known: Tensor | None = None,
    ) -> Solution[Tensor]:  # fmt: skip
        x = in_precision_of(self, x)
        check_samples(x, self.input_shape)
        weight = self._parts[0].free
        check_numbers(x, weight)
        if z0 is not None:
            check_start(z0, (*x.shape[: x.ndim - len(self.input_shape)], *self.state_shape), x.dtype)
        with full_precision(x.device):
            return self._solve_in(x, z0, dtype, guarantee, settings, known)

    def _solve_in(
        self, x: Tensor, z0: Tensor | None, dtype: torch.dtype, guarantee: Contraction, settings: Settings,
        known: Tensor | None,
    ) -> Solution[Tensor]:  # fmt: skip
        weight = self._parts[0].free
        rows = x.reshape(-1, *self.input_shape)
        cell, weights, drive = self._cell(rows, dtype)
        start = torch.zeros_like(drive) if z0 is None else self._packed(z0.reshape(-1, *self.state_shape).to(dtype))
        check_finite(self, x, drive)
        if len(self.input_shape) > 1:  # a stride may leave entries out
            check_finite(self, x, x)
        before = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        if dtype != weight.dtype and may_begin(settings) and not is_transformed((x, weight)):
            problem = _problem(cell, drive.to(weight.dtype), [part.to(weight.dtype) for part in weights])
            start, before, settings = approached(problem, start.to(weight.dtype), settings, guarantee)
        found = fixed_point_with(
            cell, start.detach(), (drive, *weights), settings, guarantee=guarantee,
            batched_args=(0,), known=None if known is None else self._packed(known.reshape(-1, *self.state_shape)),
        )  # fmt: skip
        lead = x.shape[: x.ndim - len(self.input_shape)]
        report = found if len(lead) == 1 else found.reshape(lead)
        value = self._unpacked(found.value.to(weight.dtype))
        bound = report.error_bound
        if bound is not None and dtype != weight.dtype:
            rounding = euclidean(value.detach().double() - self._unpacked(found.value.detach())).reshape(lead)
            bound = bound + rounding + self._underflow(weight.dtype)
        codes, residual, steps, _ = report.fields()
        return Solution(
            codes, residual, steps + before.reshape(lead), bound, report.algorithm,
            value=value.reshape(*lead, *self.state_shape), adjoint_reports=found.adjoint_reports,
        )  # fmt: skip

    @override
    @uncompiled
    def state(self, x: Tensor) -> Tensor:
        return self._state(x, None)

    @override
    def state_again(self, x: Tensor, known: Tensor) -> Tensor:
        return self._state(x, known)

    def _state(self, x: Tensor, known: Tensor | None) -> Tensor:
        dtype = self._parts[0].free.dtype
        factor = self.step_factor(NORM_SLACK.get(dtype, 0.0))
        rtol, atol = self.limits()
        # One step more, which is cheaper than what proves an error and sharpens a value by a step besides.
        settings = self.settings(factor * rtol, factor * atol, certified=False)
        return self._solve(x, None, dtype, Contraction(factor, 0.0), settings, known).value

    @override
    @checked_options
    @uncompiled
    def solve(self, x: Tensor, z0: Tensor | None = None) -> Solution[Tensor]:
        """The equilibrium with its evidence; solved in float64 for the orthogonal maps as stored.

        Args:
            x: shape (*, *input_shape).
            z0: first iterate of shape (*, *state_shape).
        """
        excess = self.norm_excess()
        factor = self.constants(excess)[0]
        guarantee, settings = Contraction(self.step_factor(excess), 0.0), self.settings(*self.limits())
        found = self._solve(x, z0, torch.float64, guarantee, settings)
        rows = in_precision_of(self, x.detach()).reshape(-1, *self.input_shape)
        values = found.value.detach().double().reshape(-1, *self.state_shape)
        lost = self._underflow(x.dtype) * (1.0 + euclidean(rows) + euclidean(values))
        rounding = (self._evaluation_error(rows, values) + lost) / (1.0 - factor)
        assert found.error_bound is not None  # a guarantee was given
        bound = (found.error_bound + rounding.reshape(found.error_bound.shape)).nan_to_num(math.inf, math.inf)
        codes = torch.where(found.converged & torch.isinf(bound), Status.ROUNDING.code, found.status_codes)
        return dataclasses.replace(found, error_bound=bound, status_codes=codes.to(found.status_codes))


def _problem(cell: Callable[..., Tensor], drive: Tensor, weights: Sequence[Tensor]) -> MapProblem:
    """What `ContractiveCell._cell` gives, in one."""
    return MapProblem(lambda z: cell(z, drive, *weights), lambda rows: lambda z: cell(z, drive[rows], *weights))


def mixing_numbers(free: nn.Parameter) -> tuple[float, float]:
    """The two mixing weights; under ``torch.func`` transforms, where they have many values, those of least contraction."""
    if torch._C._functorch.is_functorch_wrapped_tensor(free):
        return LEAST_MIXING, 1.0 - LEAST_MIXING
    first, second = mixing_weights(free, torch.float64).detach().tolist()
    return first, second


def mixing_weights(free: nn.Parameter, dtype: torch.dtype) -> Tensor:
    """Weights of convex combinations in (0.05, 0.95), with their graph."""
    return LEAST_MIXING + (1.0 - 2.0 * LEAST_MIXING) * torch.sigmoid(free.to(dtype))

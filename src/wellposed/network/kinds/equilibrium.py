"""Equilibria of affine maps: ``z = σ(Wz + Ux + b)``."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from wellposed.activations import name_of
from wellposed.guarantee import Guarantee
from wellposed.layers.equilibrium import Equilibrium
from wellposed.layers.frozen import frozen
from wellposed.layers.pcdeq import PositiveLinear
from wellposed.layers.plain import is_plain
from wellposed.layers.prescribed_bound import ScaledLinear
from wellposed.network.description import Description
from wellposed.network.entrywise import EntrywiseStep, LinearStep, SolveStep
from wellposed.network.kinds.block import kind_of
from wellposed.network.kinds.implicit import EXACT_STEPS, ImplicitBlock
from wellposed.network.metric import metric_guarantee
from wellposed.network.propagation import Own
from wellposed.numerics.euclidean import euclidean
from wellposed.numerics.norm import Norm
from wellposed.numerics.verified import spectral_norm_upper_bound
from wellposed.solvers.solution import Solution


@kind_of(Equilibrium, inherited=True)
class EquilibriumBlock(ImplicitBlock):
    """An affine layer with its guarantee; one that promises nothing has what a diagonal metric proves."""

    @property
    @override
    def affine_layer(self) -> Equilibrium | None:
        layer: Equilibrium = self.module
        return layer

    @property
    def promise(self) -> Guarantee | None:
        """What a diagonal metric proves of a layer that promises nothing; None for a layer with a guarantee of its own."""
        return metric_guarantee(self.name, self.module)

    @override
    def constant(self, norm: Norm) -> tuple[float, str]:
        promise = self.promise
        layer = self.module if promise is None else frozen(self.module, promise)
        return layer.lipschitz() if norm == "2" else super().constant(norm)

    @override
    def entrywise(self) -> list[EntrywiseStep] | None:
        layer: Equilibrium = self.module
        comparison = None if layer.direct is not None else layer.materialise()[1]
        known = None if comparison is None else comparison.comparison()
        weight = _input_matrix(layer)
        if known is None or weight is None:
            return None
        steps: list[EntrywiseStep] = [LinearStep(weight, _FOLDED), SolveStep(self.name, known)]
        if layer.output is not None:
            steps.append(LinearStep(layer.output.weight.detach().double().cpu()))
        return steps

    @override
    def solve_errors(
        self, value: Tensor, solution: Solution[Tensor], factor: float, forward: bool
    ) -> tuple[Own, float]:
        layer, promise, state = self.module, self.promise, solution.value
        rtol, atol = layer.limits()
        if promise is not None:  # solves without a guarantee stop on residuals
            amplified = 1.0 + promise.offset_lipschitz() * float(torch.linalg.matrix_norm(layer.operator().dense()))
            rtol, atol = 1.01 * rtol * amplified, 1.01 * atol * amplified
        own = Own(atol + rtol * euclidean(state).double(), 0.0, rtol)
        guarantee = layer.guarantee() if promise is None else promise
        sensitivity = guarantee.offset_lipschitz()
        if forward:
            own = own.plus(affine_rounding(layer, value, state), sensitivity)
        return own, layer.injection_norm() * sensitivity

    @override
    def solve_error(self, value: Tensor, solution: Solution[Tensor]) -> Tensor:
        if solution.error_bound is not None:
            return solution.error_bound.double()
        exact = frozen(self.module, self.promise).solve(value.double().cpu())
        assert exact.error_bound is not None
        apart = euclidean(exact.value - solution.value.double().cpu()) * (1.0 + 1e-12)
        return (apart + exact.error_bound).to(value.device)

    @override
    def exact(self) -> Any:
        exact = super().exact()
        exact.solver, exact.max_steps = None, max(exact.max_steps, EXACT_STEPS)
        return exact

    @override
    def describe(self, value: float | None) -> Description:
        layer: Equilibrium = self.module
        matrix, sigma = layer.operator().matrix(), name_of(layer.activation)
        scaled, state = is_plain(layer.injection, ScaledLinear), layer.constraint.formula
        followed = layer.activation.is_monotone and (scaled or is_plain(layer.injection, nn.Linear))
        if not followed or matrix is None or state is None or sigma is None or layer.direct is not None:
            return super().describe(value)
        options = {
            "state": state, "input": "scaled" if scaled else "linear", "output": layer.output is not None, "activation": sigma
        }  # fmt: skip
        tensors = {"matrix": matrix, "input": layer.injection.weight}
        if layer.output is not None:
            tensors["output"] = layer.output.weight
        return Description("equilibrium", options, tensors=tensors, in_metric=True)


_FOLDED = 8  # roundings of the entries of an input map with a normalisation folded in


def _input_matrix(layer: Equilibrium) -> Tensor | None:
    """U, with a normalisation that belongs to the layer folded in, float64 on the CPU; None where it is no matrix."""
    injection = layer.injection
    if isinstance(injection, PositiveLinear):
        return injection.folded()[0].detach().double().cpu()
    plain = isinstance(injection, nn.Linear | ScaledLinear)
    return injection.weight.detach().double().cpu() if plain else None


def affine_rounding(layer: Equilibrium, value: Tensor, state: Tensor) -> Own:
    """Rounding of one evaluation of Ux + b and of σ(Wz + Ux + b) in the working precision, in units of the offset."""
    injection, operator = layer.injection, layer.operator()
    eps = torch.finfo(state.dtype).eps
    weight = injection.weight.detach().double()
    absolute = 0.0 if layer.activation.homogeneous else 8.0 * eps * state[0].numel() ** 0.5 if len(state) else 0.0
    stored = operator.matrix()
    if weight.ndim == 2 and stored is not None:
        unit = 0.5 * eps * (weight.shape[1] + len(weight) + 8) * 1.01
        matrix = stored.detach().double().abs()
        bias = 0.0 if injection.bias is None else injection.bias.detach().double().abs()
        terms = value.double().abs() @ weight.abs().t() + state.double().abs() @ matrix.t() + bias
        norms = [spectral_norm_upper_bound(part.abs()) for part in (weight, matrix)]
        here = unit * euclidean(terms) + 16.0 * eps * euclidean(state).double() + absolute
        return Own(here, unit * norms[0], unit * norms[1] + 16.0 * eps)
    taps = math.prod(weight.shape[2:])
    # Each input enters so many sums of every output channel.
    frobenius = float(weight.norm()) * taps**0.5
    constant = float(euclidean(injection(torch.zeros_like(value[:1]))).double()) if len(value) else 0.0
    terms_ = weight[0].numel() + 16.0
    one = torch.ones(1, dtype=torch.float64)
    by_state, by_offset = (float(operator.rounding(*pair)) for pair in ((one, 0.0 * one), (0.0 * one, one)))
    inside, outside = eps * terms_ * frobenius + by_offset * layer.injection_norm(), by_state + 16.0 * eps
    here = absolute + (eps * terms_ + by_offset) * constant
    here = here + inside * euclidean(value).double() + outside * euclidean(state).double()
    return Own(here, inside, outside)

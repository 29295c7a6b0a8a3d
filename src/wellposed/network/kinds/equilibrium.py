"""Equilibria of affine maps: ``z = σ(Wz + Ux + b)``."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.activations import name_of
from wellposed.guarantee import Guarantee
from wellposed.guarantee.metric_search import known_metric
from wellposed.layers.equilibrium import Equilibrium
from wellposed.layers.frozen import frozen
from wellposed.layers.implicit_layer import ImplicitLayer
from wellposed.maps.affine import Affine
from wellposed.network.deployed import DeployedGraph, Edge
from wellposed.network.entrywise import EntrywiseStep, LinearStep, SolveStep
from wellposed.network.kinds.block import Block, Interval, kind_of
from wellposed.network.kinds.implicit import EXACT_STEPS, ImplicitBlock
from wellposed.network.kinds.linear import linear
from wellposed.network.metric import metric_guarantee
from wellposed.network.propagation import Own
from wellposed.network.state_intervals import StateIntervals
from wellposed.numerics.euclidean import euclidean
from wellposed.numerics.linear_algebra import inverse
from wellposed.numerics.norm import Norm
from wellposed.numerics.outward import above, below, enlarged
from wellposed.numerics.verified import spectral_norm_upper_bound
from wellposed.solvers.solution import Solution

STEPS = 2000  # of a deployed iteration at most
_SHARE = 0.05  # of the error that is allowed, which iterations in float64 may leave
_ENOUGH = 2.0**-22  # changes of iterates in float32, relative to their size, that are hardly more than rounding


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

    @property
    @override
    def parts(self) -> tuple[Block, ...]:
        layer: Equilibrium = self.module
        if layer.output is None or layer.direct is not None:
            return (self,)
        return _StateBlock(self.name, layer), _OutputBlock(f"{self.name}.output", layer.output)

    @cached_property
    def _states(self) -> StateIntervals:
        return StateIntervals(self.name, self.module, self.promise)

    def _read(self, state: Interval, direct: Callable[[Affine], Interval]) -> Interval:
        """Bounds of the layer's value, from those of its state and of what its direct map gives."""
        layer: Equilibrium = self.module
        if layer.output is None:
            return state
        lower, upper = layer.output.numbers().cpu().interval(*(end.flatten(1) for end in state))
        if layer.direct is None:
            return lower, upper
        least, largest = direct(layer.direct.numbers().cpu())
        return below(lower + least), above(upper + largest)

    @override
    def interval(self, lower: Tensor, upper: Tensor) -> Interval:
        return self._read(self._states.of_boxes(lower, upper), lambda direct: direct.interval(lower, upper))

    @override
    def interval_of_balls(self, centre: Tensor, radius: Tensor) -> Interval | None:
        return self._read(
            self._states.of_balls(centre, radius), lambda direct: direct.interval_of_balls(centre, radius)
        )

    @override
    def entrywise(self) -> list[EntrywiseStep] | None:
        layer: Equilibrium = self.module
        comparison = None if layer.direct is not None else layer.materialise()[1]
        known = None if comparison is None else comparison.comparison()
        driven = layer.injection.numbers().as_matrix()  # slopes of a positive part lie in [0, 1]
        if known is None or driven is None:
            return None
        steps: list[EntrywiseStep] = [LinearStep(driven.cpu().weight, driven.roundings), SolveStep(known)]
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
        exact = frozen(self.module, self.promise).sharpened(value.double().cpu())
        assert exact.error_bound is not None
        apart = euclidean(exact.value - solution.value.double().cpu())
        # A difference, the norm with its scaling, and the sum.
        return enlarged(apart + exact.error_bound, exact.value[0].numel() + 6).to(value.device)

    @override
    def exact(self) -> Any:
        exact = super().exact()
        exact.solver, exact.max_steps = None, max(exact.max_steps, EXACT_STEPS)
        return exact

    @override
    def deploy(self, graph: DeployedGraph, edge: Edge) -> Edge:
        layer: Equilibrium = self.module
        if edge.shape != layer.input_shape:
            raise self.unknown("no form in deployed files for rows of inputs")
        value = self._deployed_state(graph, self._deployed_offset(graph, edge))
        if layer.output is not None:
            value = self._deployed_output(graph, value)
        if layer.direct is not None:
            direct = linear(graph, edge, layer.direct.weight, layer.direct.bias)
            value = graph.call("SumOfTwo", value, direct, shape=value.shape)
            metric = layer.operator().metric
            if metric is not None:
                graph.prove(value, metric=metric)
        return value

    def _deployed_offset(self, graph: DeployedGraph, edge: Edge) -> Edge:
        """The offset Ux + b, appended to a deployed network."""
        return linear(graph, edge, self.module.injection.weight, self.module.injection.bias)

    def _deployed_output(self, graph: DeployedGraph, state: Edge) -> Edge:
        """The output map of an equilibrium, appended to a deployed network."""
        return linear(graph, state, self.module.output.weight, self.module.output.bias)

    def _deployed_state(self, graph: DeployedGraph, driven: Edge) -> Edge:
        """The equilibrium for an offset, appended to a deployed network: Peaceman–Rachford splitting."""
        operator, sigma = self.module.operator(), self.module.activation
        matrix, name = operator.matrix(), name_of(sigma)
        if matrix is None or name is None or not sigma.is_monotone:
            raise self.unknown(f"no form in deployed files for this state map with the activation {sigma!r}")
        guarantee = self.module.guarantee() if self.promise is None else self.promise
        suggested = guarantee.suggested_step() if sigma.is_own_resolvent else None
        step = 1.0 if suggested is None else suggested
        reflected = cayley(matrix.detach().double().cpu(), step)
        drive = step * (torch.eye(len(reflected), dtype=torch.float64, device="cpu") + reflected)
        metric = known_metric(matrix.detach().double().cpu(), guarantee)
        if metric is None:
            raise self.unknown("no diagonal metric in which this state map is well posed")
        sensitivity, multipliers = graph.sensitivity(matrix, metric)
        refined = refining(graph, self.module, sensitivity / step)
        found = graph.call(
            f"ReflectedEquilibrium_{name}", driven, shape=driven.shape, W=matrix, reflect=reflected.float(),
            drive=drive.float(), step=step, sensitivity=sensitivity, **stopping(STEPS), **refined,
        )  # fmt: skip
        graph.prove(found, sensitivity=multipliers)
        return found


class _StateBlock(EquilibriumBlock):
    """A layer without its output map."""

    @property
    @override
    def parts(self) -> tuple[Block, ...]:
        return (self,)

    @override
    def _read(self, state: Interval, direct: Callable[[Affine], Interval]) -> Interval:
        return state


class _OutputBlock(Block):
    """The output map of a layer by itself."""

    @override
    def interval(self, lower: Tensor, upper: Tensor) -> Interval:
        return self.module.numbers().cpu().interval(lower.flatten(1), upper.flatten(1))

    @override
    def margins(self, lower: Tensor, upper: Tensor, labels: Tensor) -> Interval:
        return self.module.numbers().cpu().margins(lower, upper, labels)


def stopping(steps: int) -> dict[str, Any]:
    """The arguments of a deployed iteration that say when it ends: the relative change that is enough, and the most steps."""
    return {"stop": torch.tensor(_ENOUGH, device="cpu"), "limit": torch.tensor(steps, device="cpu")}


def refining(graph: DeployedGraph, layer: ImplicitLayer, sensitivity: float) -> dict[str, Any]:
    """The arguments of a deployed iteration in float64 that say when it ends: the residual that is enough, and the most steps.

    Args:
        graph: which is written.
        layer: whose equilibrium it is; its output map may enlarge errors.
        sensitivity: how far an equilibrium may be away for a residual of one.
    """
    seen = 1.0 if layer.output is None else spectral_norm_upper_bound(layer.output.weight)
    return {"goal": _SHARE * graph.allowed / max(sensitivity * seen, 1e-30), "finer": torch.tensor(STEPS, device="cpu")}


def cayley(matrix: Tensor, step: float) -> Tensor:
    """``2(I + α(I − W))⁻¹ − I`` of a matrix, for a step α."""
    eye = torch.eye(len(matrix), dtype=matrix.dtype, device="cpu")
    return 2.0 * inverse((1.0 + step) * eye - step * matrix) - eye


def affine_rounding(layer: Equilibrium, value: Tensor, state: Tensor) -> Own:
    """Rounding of one evaluation of Ux + b and of σ(Wz + Ux + b) in the working precision, in units of the offset."""
    driven, operator = layer.injection.numbers(), layer.operator()
    eps = torch.finfo(state.dtype).eps
    absolute, cancelled = 0.0, layer.injection.cancelled()
    if len(state) and not layer.activation.homogeneous:
        absolute = 8.0 * eps * float(state[0].numel()) ** 0.5
    stored = operator.matrix()
    if driven.as_matrix() is not None and stored is not None:
        unit = 0.5 * eps * (driven.terms + layer.state_features + 8) * 1.01
        matrix = stored.detach().double().abs()
        sizes = driven.absolute(value.double().abs()) + state.double().abs() @ matrix.t() + driven.bias_size
        norms = driven.absolute_norm(), spectral_norm_upper_bound(matrix)
        own = unit * (euclidean(sizes) + cancelled) + 16.0 * eps * euclidean(state).double() + absolute
        return Own(own, unit * norms[0], unit * norms[1] + 16.0 * eps)
    constant = float(euclidean(layer.injection(torch.zeros_like(value[:1]))).double()) if len(value) else 0.0
    terms = driven.terms + 16.0
    one = torch.ones(1, dtype=torch.float64, device="cpu")
    by_state, by_offset = (float(operator.rounding(*pair)) for pair in ((one, 0.0 * one), (0.0 * one, one)))
    inside, outside = eps * terms * driven.absolute_norm() + by_offset * layer.injection_norm(), by_state + 16.0 * eps
    still = absolute + (eps * terms + by_offset) * constant + eps * terms * cancelled
    here = still + inside * euclidean(value).double() + outside * euclidean(state).double()
    return Own(here, inside, outside)

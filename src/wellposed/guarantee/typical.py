"""What forward passes stop by: sensitivities that are typical of a map, estimated in its own precision. They prove nothing.

With gaps g > 0 and K the nonnegative matrix by which coordinates of a change drive each other, a change d of the offset moves the
equilibrium by about (I − K)⁻¹|d/g|. Its Euclidean norm is taken to be ‖d/g‖/(1 − ρ), ρ the spectral radius of K: what it is
for a multiple of K's Perron vector, and seldom more for other d, as slopes below one and entries of both signs make it smaller.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.guarantee.base import Guarantee
from wellposed.guarantee.plan import Algorithms, Plan, S
from wellposed.numerics.euclidean import euclidean
from wellposed.operators import Operator

_ROUNDS = 12  # of the power iteration
_LARGEST_RADIUS = 0.999
_LARGE = 1e30  # a bound that no tolerance accepts


def spectral_radius(drive: Callable[[Tensor], Tensor], start: Tensor) -> float:
    """About the spectral radius of a nonnegative matrix, seldom less (Collatz & Wielandt).

    Args:
        drive: applies the matrix.
        start: a positive vector.
    """
    vector, ratio = start, start
    for _ in range(_ROUNDS):
        image = drive(vector)
        ratio = image / vector
        vector = image + 0.05 * vector
        vector = vector / vector.amax()
    return float(ratio.amax().nan_to_num(nan=1.0))


class Typical(Guarantee):
    """An estimate in the place of a promise: steps that the promise would prove, and typical errors.

    Args:
        promise: what is promised.
        operator: W.
        gaps: g, of a shape that broadcasts to the state's.
        radius: ρ.
        start: where iterations begin, of the shape of a state; None for zero.
    """

    def __init__(
        self, promise: Guarantee, operator: Operator, gaps: Tensor, radius: float, start: Tensor | None = None
    ) -> None:
        self.theorem, self.lipschitz_theorem = promise.theorem, promise.lipschitz_theorem
        self.is_concave = promise.is_concave
        self._promise, self._operator, self._gaps, self._start = promise, operator, gaps, start
        self._radius = min(radius, _LARGEST_RADIUS)

    @override
    def preferred(self, among: Algorithms[S]) -> S:
        return self._promise.preferred(among)

    def _moved(self, change: Tensor) -> Tensor:
        return euclidean(change / self._gaps) / (1.0 - self._radius)

    def error_bound(self, point: Tensor, image: Tensor) -> Tensor:
        """As if ``image`` solved the equation for the offset q + W(point − image)."""
        return self._moved(self._operator.apply(point - image))

    @override
    def defect_bound(self, defect: Tensor, size: Tensor) -> Tensor:
        return self._moved(defect)

    @override
    def picard_plan(self) -> Plan:
        return Plan(1.0, self._radius)

    @override
    def forward_backward_plan(self, step: float | None = None) -> Plan | None:
        return Plan(self._gaps.reciprocal() if step is None else step, self._radius)

    @override
    def averaged_plan(self, damping: float | None = None) -> Plan:
        largest = float(self._gaps.amax().reciprocal()) if damping is None else damping
        return Plan(min(largest, 1.0), self._radius)

    @override
    def reflected_plan(self, step: float | None = None, relaxation: float = 1.0) -> Plan | None:
        step = self.suggested_step() if step is None else step
        return None if step is None else Plan(step, self._radius)

    @override
    def suggested_step(self) -> float | None:
        return self._promise.suggested_step()

    @override
    def start(self, like: Tensor) -> Tensor | None:
        return None if self._start is None else self._least(like).expand_as(like)

    @override
    def project(self, state: Tensor) -> Tensor:
        return state if self._start is None else torch.maximum(state, self._least(state))

    def _least(self, like: Tensor) -> Tensor:
        """Where iterations begin, as a tensor that a gradient may need, though it may have been formed in inference mode."""
        assert self._start is not None
        return self._start.to(like).clone()

    @override
    def on(self, operator: Operator) -> Guarantee:
        return self._promise.on(operator).estimated()

    @override
    def offset_lipschitz(self) -> float:
        return self._promise.offset_lipschitz()


class TypicalConcave(Typical):
    """The estimate for positive concave maps, whose gaps are one over their largest slopes and whose K is DW."""

    def error_bound(self, point: Tensor, image: Tensor) -> Tensor:
        """ρ/(1 − ρ) times the last change; large outside of the orthant, where the concave map may have other fixed points."""
        bound = euclidean(image - point) * (self._radius / (1.0 - self._radius))
        if self._start is None:  # an equation linearised at a fixed point, whose states have any sign
            return bound
        return torch.where((point < 0.0).flatten(1).any(1), _LARGE, bound)


class TypicalContraction(Guarantee):
    """The estimate for maps that contract in some norm: their changes go on to shrink by the factor, in the Euclidean norm too.

    Args:
        promise: what is promised.
        factors: below one, shape (samples,).
    """

    def __init__(self, promise: Guarantee, factors: Tensor) -> None:
        self.theorem, self.lipschitz_theorem = promise.theorem, promise.lipschitz_theorem
        self._promise, self._factors = promise, factors

    def _left(self, size: Tensor) -> Tensor:
        """What is left where something of a size, one for each sample, goes on to shrink."""
        # Under vmap there are several states for each sample.
        return size / (1.0 - self._factors.repeat(len(size) // len(self._factors)))

    @override
    def picard_plan(self) -> Plan | None:
        return self._promise.picard_plan()

    @override
    def error_bound(self, point: Tensor, image: Tensor) -> Tensor:
        change = euclidean(image - point)
        return self._left(change) - change

    @override
    def defect_bound(self, defect: Tensor, size: Tensor) -> Tensor:
        return self._left(size)

    @override
    def offset_lipschitz(self) -> float:
        return self._promise.offset_lipschitz()

    @override
    def on(self, operator: Operator) -> Guarantee:
        return self._promise.on(operator).estimated()

    @override
    def transposed(self) -> Guarantee:
        return self._promise.transposed().estimated()

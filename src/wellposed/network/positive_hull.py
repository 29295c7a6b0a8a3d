"""Equilibria of positive concave layers for all offsets between two: both ends are attained, as they increase with the offset.

W ≥ 0 and a concave increasing σ have one nonnegative equilibrium for every offset, and that of a larger offset is larger (Gabor,
Piotrowski & Cavalcante 2024).
"""

from __future__ import annotations

import torch
from torch import Tensor

from wellposed.activations import Activation
from wellposed.guarantee import Guarantee
from wellposed.implicit import AffineEquation, Exact, Settings
from wellposed.numerics.outward import above, below
from wellposed.operators.base import Operator
from wellposed.solvers import solver_for
from wellposed.solvers.solution import Tolerance

_TOLERANCE = Tolerance(1e-10, 1e-10)
_STEPS = 20000


class PositiveHull:
    """The equilibrium of one W ≥ 0 and a concave σ as a function of its offset.

    Args:
        operator: W.
        activation: σ.
        guarantee: that there is one nonnegative equilibrium, for offsets above a floor.
    """

    def __init__(self, operator: Operator, activation: Activation, guarantee: Guarantee) -> None:
        exact = operator.to(torch.float64)
        self.operator = exact.rebuild(tuple(tensor.detach().cpu() for tensor in exact.tensors))
        self.activation, self.guarantee = activation, guarantee.on(self.operator)
        self._settings = Settings(
            solver=solver_for(self.guarantee), tolerance=_TOLERANCE, max_steps=_STEPS, on_failure="warn", gradient=Exact(),
            certified=True, name="solve of a hull",
        )  # fmt: skip

    @torch.no_grad()
    def state(self, offset: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Proved bounds of the equilibria of offsets.

        Args:
            offset: at least the floor, shape (batch, *state_shape), float64.

        Returns:
            Shapes (batch, *state_shape), twice, and for which offsets they are proved, boolean, shape (batch,).
        """
        equation = AffineEquation(
            operator=self.operator, activation=self.activation, guarantee=self.guarantee, settings=self._settings
        )
        outcome = equation.solve(None, (*self.operator.tensors, offset, *self.activation.tensors))
        bound = outcome.report.error_bound
        assert bound is not None
        away, value = bound.reshape(-1, *[1] * (offset.ndim - 1)), outcome.value
        return below(value - away).clamp_min(0.0), above(value + away), outcome.report.converged

    def enclose(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes for the equilibria of all offsets between two, for a batch, and of which of them that is proved.

        Args:
            low: least offsets, shape (batch, *state_shape), float64.
            high: largest offsets, of the shape of ``low``.

        Returns:
            Shapes (batch, *state_shape), twice, and (batch,).
        """
        lower, _, first = self.state(low)
        _, upper, second = self.state(high)
        return lower, upper, first & second

"""Training steps of ``z = σ(Wz + Ux + b)`` with matrices W and U, by as few operations as values and first derivatives need.

Samples are columns here, as products of matrices are then as fast for odd widths as for even ones. What is more than a first
derivative, or takes more than a few steps, is left to `AffineEquation`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from wellposed.activations import Activation, DiagonalLinear
from wellposed.constraints.factorisations import is_transformed
from wellposed.implicit.affine import AffineEquation
from wellposed.implicit.gradient import COTANGENT_SHARE
from wellposed.numerics.positional import PositionalFunction
from wellposed.numerics.product import added_product, product
from wellposed.operators import Operator
from wellposed.solvers.looking import TRUSTED, blurred, by_changes, first_look, is_cheap, rate_near, rate_seen, wait

_MOST = 48  # steps; beyond, samples are better told apart


@dataclass(eq=False, kw_only=True, slots=True)
class ColumnStep:
    """How an equation with a matrix is solved and differentiated.

    Attributes:
        operator: W, which has a matrix and no scaling.
        activation: σ, without tensors.
        step: α, see `Solver.reflected_step`.
        rtol: relative tolerance.
        atol: absolute tolerance.
        adjoint_rtol: relative tolerance of the adjoint state.
        most: limit on the steps of either solve.
        equation: the same equation, for whatever else is asked of it.
        rate: at which iterations converge, as far as it is known.
        reached: where the solve for the equilibria was given up, shape (batch, n), if it began.
    """

    operator: Operator
    activation: Activation
    step: float
    rtol: float
    atol: float
    adjoint_rtol: float
    most: int
    equation: Callable[[], AffineEquation]
    rate: float = 1.0
    reached: Tensor | None = None

    def value(self, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
        """The equilibria, with their graph, shape (batch, n); None where they are not found soon.

        Args:
            rows: x, shape (batch, inputs).
            weight: U, shape (n, inputs).
            bias: b, shape (n,), or None.
        """
        with torch.no_grad():
            cayley = self.operator.cayley(self.step).matrix()
            if cayley is None:
                return None
            if cayley.is_inference():  # formed in inference mode before, for the same numbers
                cayley = cayley.clone()
            columns = rows.t()
            offset = product(weight, columns) if bias is None else added_product(bias[:, None], weight, columns)
            self.rate = rate_near(float(torch.linalg.vector_norm(cayley)) / len(cayley) ** 0.5)
            solved = self._settled(cayley, offset.mul_(self.step), self.activation, self.rtol, self.atol)
        if solved is None:
            return None
        found: Tensor = _Differentiated.apply(self, solved, cayley, self.operator.matrix(), rows, weight, bias)
        return found

    def adjoint_state(self, value: Tensor, cayley: Tensor, cotangent: Tensor) -> Tensor | None:
        """The y with ``y = J(g + Wᵀy)``, shape (n, batch); None where it is not found soon.

        Args:
            value: the equilibria, shape (n, batch).
            cayley: C, shape (n, n).
            cotangent: g, shape (batch, n).
        """
        slopes = self.activation.derivative_at_output(value)
        if slopes is None:
            return None
        linear = DiagonalLinear(slopes, binary=self.activation.binary_slopes)
        driven = _transposed(cotangent)
        atol = _norms(driven) * (self.adjoint_rtol * COTANGENT_SHARE)
        if not float(atol.amin()) >= TRUSTED[atol.dtype]:  # a sample without a cotangent, or with a very small one
            return None
        return self._settled(_transposed(cayley), driven.mul_(self.step), linear, self.adjoint_rtol, atol)

    def _settled(
        self, cayley: Tensor, driven: Tensor, activation: Activation, rtol: float, atol: float | Tensor
    ) -> Tensor | None:
        """Where Peaceman–Rachford's iteration ends within the tolerance, by its changes; None where it does not soon.

        Args:
            cayley: C, shape (n, n).
            driven: αq, shape (n, batch).
            activation: σ.
            rtol: relative tolerance.
            atol: absolute tolerance, or one per sample.
        """
        reflect, rate, most = activation.reflection(self.step), self.rate, min(self.most, _MOST)
        point = before = earlier = driven
        tolerance = rtol + (atol if isinstance(atol, float) else 0.0)
        due = max(3, first_look(rate, tolerance, cheap=is_cheap(cayley, driven)))  # three changes must be there
        taken, previous = 0, None
        while due <= most:
            for _ in range(due - taken):
                earliest, earlier, before = earlier, before, point
                point = added_product(driven, cayley, reflect(point).add_(driven))
            taken = due
            value = activation.resolvent(point, self.step)
            changes = (point - before, before - earlier, earlier - earliest)
            size, last, second, third = _norms(torch.stack((value, *changes)), 1).unbind()
            worst = by_changes(last, second, third, size, size, rtol, atol, driven.dtype)
            if worst is None or (previous is not None and not worst < previous[1]):
                return None
            if worst <= 1.0:
                if bool(blurred(self.step, _norms(driven) / self.step, size, size * rtol + atol).any()):
                    return None
                self.reached = None  # as graphs keep this object
                return value
            if previous is not None:
                rate = rate_seen(worst, previous[1], taken - previous[0])
            previous = (taken, worst)
            due = taken + max(1, wait(worst, 1.0, rate))
            self.reached = value.t()
        return None


def _transposed(matrix: Tensor) -> Tensor:
    """The transpose, in memory of its own, which that of a single row or column would not have by ``contiguous``."""
    return matrix.t().clone(memory_format=torch.contiguous_format)


def _norms(columns: Tensor, along: int = 0) -> Tensor:
    """Euclidean norms in the working precision."""
    return columns.square().sum(along).sqrt_()


class _Differentiated(PositionalFunction):
    """The equilibria as a function of W, x, U and b."""

    @staticmethod
    def forward(
        ctx: Any, step: ColumnStep, solved: Tensor, cayley: Tensor, matrix: Tensor, rows: Tensor, weight: Tensor,
        bias: Tensor | None,
    ) -> Tensor:  # fmt: skip
        value = _transposed(solved)
        ctx.step = step
        ctx.save_for_backward(value, solved, cayley, matrix, rows, weight, bias)
        return value

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        value, solved, cayley, matrix, rows, weight, bias = ctx.saved_tensors
        _, _, _, of_matrix, of_rows, of_weight, of_bias = ctx.needs_input_grad
        plain = not (torch.is_grad_enabled() or is_transformed((cotangent,)))
        columns = ctx.step.adjoint_state(solved, cayley, cotangent) if plain else None
        if columns is None:
            offset = torch.nn.functional.linear(rows, weight, bias)
            tensors = (matrix, *ctx.step.operator.tensors[1:], offset)
            needed = [of_matrix, *(False for _ in tensors[1:])]
            equation = replace(ctx.step.equation(), activation=ctx.step.activation)
            found = equation.pull_back(value, tensors, cotangent, needed)
            gradient, state = found[0], found[len(tensors) - 1]
            columns = state.t()
        else:
            gradient = product(columns, solved.t()) if of_matrix else None
        return (
            None, None, None, gradient,
            product(columns.t(), weight) if of_rows else None,
            product(columns, rows) if of_weight else None,
            columns.sum(1) if of_bias else None,
        )  # fmt: skip

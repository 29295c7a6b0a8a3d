"""A semidefinite relaxation of a ReLU network over an ellipsoid of inputs: what it is about, and what its dual says.

Per unit with pre-activation v in [l, u], l < 0 < u, the state z and its complement y = z − v satisfy z(u − z) ≥ 0, y(−l − y) ≥ 0,
zy = 0 and the triangle z/u + y/(−l) ≤ 1: these imply every product of the linear constraints on z, y and v. Multipliers for
them, for the ball of inputs and for ranges of further linear forms, make a matrix F; where it is positive semidefinite, the
objective is at least t on the whole region (the Lagrangian dual of Shor's relaxation; Chen et al. 2021 solve the primal, with
fewer constraints, as one program of the size of the input). With a metric in the place of ranges it is the bound of
`wellposed.bounds.diagonal_metric`.

Multipliers come from `wellposed.verification.central_path`, which proves nothing; `wellposed.verification.proof` proves, by one
verified Cholesky factorisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Relaxed:
    """Linear forms of w = (z, ξ, 1): p uncertain states, q directions of the input with ‖ξ‖ ≤ 1, and a constant.

    All tensors are float64; those of several problems of one shape have a dimension in front. The true forms may differ from the
    stored ones by the errors, whatever the input.

    Attributes:
        preactivations: v of the uncertain units, shape (p, p + q + 1).
        lower: l < 0, shape (p,).
        upper: u > 0, shape (p,).
        errors: of the pre-activations, shape (p,).
        ranges: further forms, known to lie between 0 and a width, shape (s, p + q + 1).
        widths: shape (s,).
        range_errors: of those forms, shape (s,).
        objective: the form to bound from below, shape (p + q + 1,).
        objective_error: of that form, without dimensions.
        metric: λ > 0 to start from, for the uncertain units, shape (p,); this and what follows are guesses.
        range_metric: multipliers of the ranges that go with it, in units of the widths, shape (s,).
        state: z at some input, shape (p,).
        complement: y there, shape (p,).
        pull: P, shape (n, q): inputs of least norm with the directions ξ are gram-root images of UᵀPξ, see `Region.lift`.
    """

    preactivations: Tensor
    lower: Tensor
    upper: Tensor
    errors: Tensor
    ranges: Tensor
    widths: Tensor
    range_errors: Tensor
    objective: Tensor
    objective_error: Tensor
    metric: Tensor
    range_metric: Tensor
    state: Tensor
    complement: Tensor
    pull: Tensor

    def __repr__(self) -> str:
        units, ranges, variables = (part.shape[-1] for part in (self.lower, self.widths, self.objective))
        return f"Relaxed(units={units}, ranges={ranges}, variables={variables})"

    @classmethod
    def stack(cls, problems: Sequence[Self]) -> Self:
        """Several problems of one shape as one, with a dimension in front."""
        parts = {field.name: [getattr(problem, field.name) for problem in problems] for field in fields(cls)}
        return cls(**{name: torch.stack(part) for name, part in parts.items()})


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Multipliers:
    """A point of the dual, and what it says of the primal.

    Attributes:
        values: t, κ of the ball, then per unit ρ of z(u − z), π of y(−l − y), τ of zy and η of the triangle, then ω per range.
        bound: t: the objective is at least this, up to rounding.
        reachable: no multipliers of this relaxation prove more than about this.
        direction: the ξ of the relaxation's optimum, shape (q,): where to look for a counterexample.
        conflict: what the mean of the relaxation's optimum pays for zy ≠ 0, per unit, shape (p,).
        squares: second moments of ξ there, shape (q, q).
    """

    values: Tensor
    bound: float
    reachable: float
    direction: Tensor
    conflict: Tensor
    squares: Tensor

    def __repr__(self) -> str:
        return f"Multipliers(bound={self.bound:.6g}, reachable={self.reachable:.6g})"

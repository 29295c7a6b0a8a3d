"""From a network, a region and what is known of its units, to the linear forms of a relaxation.

Units that are surely inactive vanish; those that are surely active, or taken to be in a branch, are solved for, so that what is
left has one variable per uncertain unit. The solve is done in float64; a residual bounds what is wrong with it.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from wellposed.bounds.affine_network import AffineNetwork, Centre
from wellposed.numerics.outward import enlarged, enlarged_sum, rounding_constant
from wellposed.verification.region import Region
from wellposed.verification.relaxation import Relaxed


@dataclass(frozen=True, eq=False, repr=False)
class Bounds:
    """Proved bounds of the pre-activations on a region, shape (n,) each, or on several."""

    lower: Tensor
    upper: Tensor

    def __repr__(self) -> str:
        return f"Bounds({tuple(self.lower.shape)})"

    def __getitem__(self, row: int) -> Bounds:
        """The bounds on one region of several."""
        return Bounds(self.lower[row], self.upper[row])

    def uncertain(self) -> Tensor:
        """Which units may be active and inactive, boolean."""
        return (self.lower < 0.0) & (self.upper > 0.0)


class Reduction:
    """The forms of a region for given bounds and decisions, for any objective.

    Args:
        network: W, U, C.
        centre: the network at the region's centre.
        region: the inputs.
        bounds: of the pre-activations, valid on the part of the region that the decisions leave.
        decisions: units taken to be active (+1) or inactive (−1), which their bounds leave open.
        shares: see `Region.gram`.
    """

    def __init__(
        self,
        network: AffineNetwork,
        centre: Centre,
        region: Region,
        bounds: Bounds,
        decisions: dict[int, int] | None = None,
        shares: Tensor | None = None,
    ) -> None:
        self.decisions = decisions = {} if decisions is None else decisions
        self.network, self.centre, self.region, self.bounds, self.shares = network, centre, region, bounds, shares
        uncertain = bounds.uncertain()
        active = bounds.lower >= 0.0
        for unit, sign in decisions.items():
            if uncertain[unit]:
                uncertain[unit], active[unit] = False, sign > 0
        self.open = torch.nonzero(uncertain)[:, 0]
        self.active = torch.nonzero(active)[:, 0]
        chosen = [(unit, sign) for unit, sign in decisions.items() if bounds.lower[unit] < 0.0 < bounds.upper[unit]]
        self.chosen = torch.tensor([unit for unit, _ in chosen], dtype=torch.long, device="cpu")
        self.signs = torch.tensor([float(sign) for _, sign in chosen], dtype=torch.float64, device="cpu")
        self._solve()
        self._states, self._picked = (self._rows(network.matrix[units], units) for units in (self.open, self.chosen))

    def within(self, shares: Tensor | None) -> Self:
        """The same forms for another ellipsoid around the region, of which nothing else depends; see `Region.gram`."""
        other = copy.copy(self)
        other.shares = shares
        return other

    def _solve(self) -> None:
        """Z of the active units as a function of (z of the open ones, s = U(x − x₀), 1), with its error."""
        network, opened, active = self.network, self.open, self.active
        matrix = network.matrix
        size = len(active)
        own = torch.eye(size, dtype=torch.float64, device="cpu") - matrix[active][:, active]
        right = torch.cat(
            [
                matrix[active][:, opened],
                torch.eye(size, dtype=torch.float64, device="cpu"),
                self.centre.offset[active, None],
            ],
            1,
        )
        solved = torch.linalg.solve_ex(own, right)[0] if size else right
        self.p = len(opened)
        self.by_open, self.by_input, self.constant = solved[:, : self.p], solved[:, self.p : -1], solved[:, -1]
        self.reach = self.region.reach(network)
        self.highest = self.bounds.upper[opened]
        self.sizes = torch.cat([self.highest, self.reach[active], torch.ones(1, dtype=torch.float64, device="cpu")])
        self.solved = solved
        self.solve_error = 0.0
        if size:
            rounding = rounding_constant(size + 8)
            residual = (own @ solved - right).abs() + rounding * (own.abs() @ solved.abs() + right.abs())
            inverse = self.by_input
            off = float(enlarged_sum(residual[:, self.p : -1].sum(1).amax(), size))
            if not off < 0.5:
                self.solve_error = math.inf
                return
            norm = float(inverse.abs().sum(1).amax()) / (1.0 - off)
            away = float((residual @ self.sizes).amax()) + float(self._given(active).amax())
            # Sums over as many terms as there are units that are not inactive, twice, and a few operations more.
            self.solve_error = enlarged(norm * away, 2 * size + self.p + 12)

    def _given(self, units: Tensor) -> Tensor:
        """Errors of the offsets of these units: at the centre, and of U away from it."""
        return self.centre.offset_error[units] + 2.0 * self.network.folding * self.reach[units]

    def _rows(self, rows: Tensor, units: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Linear functions of the state, plus the offset of some units, as functions of (z of the open ones, s, 1), and errors.

        Args:
            rows: coefficients of the state, shape (k, n).
            units: units whose offset is added, shape (k,); None for none.
        """
        active, opened = self.active, self.open
        of_active = rows[:, active]
        by_open = rows[:, opened] + of_active @ self.by_open
        by_input = torch.zeros(len(rows), len(self.network.matrix), dtype=torch.float64, device="cpu")
        by_input[:, active] = of_active @ self.by_input
        constant = of_active @ self.constant
        terms = rows[:, opened].abs() @ self.highest + of_active.abs() @ (self.solved.abs() @ self.sizes)
        error = of_active.abs().sum(1) * self.solve_error
        if units is not None:
            by_input[torch.arange(len(rows), device="cpu"), units] += 1.0
            constant = constant + self.centre.offset[units]
            terms = terms + self.reach[units] + self.centre.offset[units].abs()
            error = error + self._given(units)
        error = error + rounding_constant(len(active) + self.p + 24) * terms
        # A sum over active units of sums over all units that are not inactive, and a few operations more.
        return by_open, by_input, constant, enlarged(error, 2 * len(active) + self.p + 12)

    def margin(self, row: Tensor, constant: float, metric: Tensor, error: float = 0.0) -> Relaxed:
        """The relaxation whose objective is a linear function of the state.

        Args:
            row: its coefficients, shape (n,).
            constant: added to it.
            metric: λ to start the search of multipliers from, shape (n,).
            error: of the whole function, on the region.
        """
        goal = self._rows(row[None], None)
        # The constant may be a difference, and is added: both round.
        whole = enlarged(goal[3] + error + rounding_constant(4) * abs(constant), 3)
        return self._relaxed((goal[0], goal[1], goal[2] + constant, whole), metric)

    def preactivation(self, unit: int, sign: float, metric: Tensor) -> Relaxed:
        """The relaxation whose objective is the pre-activation of a unit, or its negative."""
        goal = self._rows(self.network.matrix[unit : unit + 1], torch.tensor([unit], device="cpu"))
        return self._relaxed((sign * goal[0], sign * goal[1], sign * goal[2], goal[3]), metric)

    def _relaxed(self, goal: tuple[Tensor, Tensor, Tensor, Tensor], metric: Tensor) -> Relaxed:
        states, picked = self._states, self._picked
        by_open = torch.cat([states[0], picked[0] * self.signs[:, None], goal[0]])
        by_input = torch.cat([states[1], picked[1] * self.signs[:, None], goal[1]])
        constants = torch.cat([states[2], picked[2] * self.signs, goal[2]])
        root = self._root(by_input)
        forms = torch.cat([by_open, root, constants[:, None]], 1)
        widths = torch.where(self.signs > 0, self.bounds.upper[self.chosen], -self.bounds.lower[self.chosen])
        p, s = self.p, len(self.chosen)
        state, away = self.centre.preactivation.clamp_min(0.0), (-self.centre.preactivation).clamp_min(0.0)
        other = torch.where(self.signs > 0, away[self.chosen], state[self.chosen])
        return Relaxed(
            preactivations=forms[:p], lower=self.bounds.lower[self.open], upper=self.bounds.upper[self.open], errors=states[3],
            ranges=forms[p : p + s], widths=widths, range_errors=picked[3],
            objective=forms[-1], objective_error=goal[3][0],
            metric=metric[self.open], range_metric=metric[self.chosen] * widths * other,
            state=state[self.open], complement=away[self.open],
            pull=torch.linalg.solve_triangular(root, by_input, upper=False).t(),
        )  # fmt: skip

    def _root(self, by_input: Tensor) -> Tensor:
        """L with LLᵀ ⪰ T·gram·Tᵀ, rounding included: Ts lies in L times the unit ball."""
        network = self.network
        gram = self.region.gram(network, self.shares)
        covariance = by_input @ gram @ by_input.t()
        size = len(covariance)
        absolute = by_input.abs().sum(1).square() * float(gram.diagonal().amax())
        error = self.region.gram_error(network) + 3.0 * rounding_constant(len(gram) + 8)
        shift = error * float(absolute.sum()) + 2.0 * rounding_constant(size + 4) * float(covariance.diagonal().sum())
        for _ in range(20):
            lifted = 0.5 * (covariance + covariance.t()) + 2.0 * shift * torch.eye(
                size, dtype=torch.float64, device="cpu"
            )
            factor, failed = torch.linalg.cholesky_ex(lifted)
            if not int(failed):
                return factor
            shift = 10.0 * shift + 1e-300
        raise ArithmeticError("the forms of the region could not be factorised")

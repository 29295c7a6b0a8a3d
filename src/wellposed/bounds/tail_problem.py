"""Constants of a network's tail and of its class margins: looked for metric by metric, and proved again from the metrics.

The product of the norms of a layer and of the linear map after it wastes that the map looks at the state in a few directions
only, and that the layer's worst direction is not one of them. The inequality of `metric_inequality` sees both at once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from wellposed.bounds.bound import NotApplicable
from wellposed.bounds.budget import Budget
from wellposed.bounds.metric_inequality import DiagonalBound, MetricInequality
from wellposed.bounds.tail import Tail
from wellposed.bounds.tail_bound import TailBound
from wellposed.errors import CertificateError
from wellposed.numerics.outward import enlarged, reduced


@dataclass(frozen=True)
class Reading:
    """How constants of single rows of C, or of all of them, become constants of the outputs in a norm.

    Attributes:
        by_row: whether the outputs are looked at one by one, the largest of whose constants is that of all of them.
        spread: whether the outputs count by the sum of their sizes, which for k of them is at most √k times their Euclidean norm.
        margin: how many times the constant of what is looked at is that of a margin at most.
    """

    by_row: bool = False
    spread: bool = False
    margin: float = math.sqrt(2.0)


# |Δ(y_i − y_j)| ≤ √2‖Δy‖₂, and of two single outputs at most 2·max|Δy_k|; ‖Δy‖₁ ≤ √k‖Δy‖₂.
EUCLIDEAN, LARGEST_OUTPUT, SUM_OF_OUTPUTS = Reading(), Reading(by_row=True, margin=2.0), Reading(spread=True)


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class TailProblem:
    """A tail with the inequality that proves constants for rows of its map C.

    Differences of rows of C come before they are spread over the state: so they round least.

    Attributes:
        tail: the layer and what follows it.
        place: of the first block that the inequality is about, among all blocks.
        inequality: of the layer, from that block's input.
        reading: of its constants.
    """

    tail: Tail
    place: int
    inequality: MetricInequality
    reading: Reading = EUCLIDEAN

    def __repr__(self) -> str:
        return f"TailProblem({self.tail!r}, {self.reading!r})"

    @property
    def wholes(self) -> Sequence[Tensor]:
        """Rows of C whose constants give that of all outputs."""
        return self.tail.rows.split(1) if self.reading.by_row else (self.tail.rows,)

    @cached_property
    def classes(self) -> list[tuple[int, int]]:
        """Pairs i < j of outputs whose margins count: none without a map after the layer."""
        return list(itertools.combinations(range(len(self.tail.rows) if self.tail.has_head else 1), 2))

    @property
    def _spread(self) -> float:
        return math.sqrt(len(self.tail.rows)) if self.reading.spread else 1.0

    def bound(self, budget: Budget | None = None) -> TailBound:
        """Nearly least constants, each in the best metric that was found.

        Args:
            budget: of time; None for no limit.

        Raises:
            NotApplicable: no metric was found.
        """
        tail, budget = self.tail, budget or Budget()
        singles = [self.inequality.bound(tail.spread(rows), None, budget.deadline) for rows in self.wholes]
        left = ["the metric of all outputs was not searched for to the end"] if budget.is_spent else []
        largest = max((found for found in singles if found is not None), key=lambda found: found.value, default=None)
        failed = any(found is None and bool(rows.any()) for found, rows in zip(singles, self.wholes, strict=True))
        if largest is None or failed:
            raise NotApplicable(f"{tail.name}: no diagonal metric was found")
        # What proves a constant for some rows proves it for zeros.
        proved = [largest if found is None else found for found in singles]
        value = enlarged(largest.value * self._spread, 2)
        fallback, start = self._by_whole(value), largest.multipliers
        pairs = torch.zeros(len(tail.rows), len(tail.rows), dtype=torch.float64, device="cpu") if self.classes else None
        missed, whole = 0, DiagonalBound(fallback, largest.multipliers, largest.shares)
        for first, second in self.classes:
            row = self._margin(first, second)
            found = None if budget.is_spent else self.inequality.bound(row, start, budget.deadline)
            missed += budget.is_spent
            margin = whole if found is None or found.value > fallback else found
            assert pairs is not None
            pairs[first, second] = pairs[second, first] = margin.value
            proved.append(margin)
        if missed:
            left.append(f"{missed} of {len(self.classes)} class margins have no metric of their own, or a rough one")
        shares = [found.shares for found in proved if found.shares is not None]
        return TailBound(
            block=tail.name, place=self.place, value=value, pairs=pairs,
            multipliers=torch.stack([found.multipliers for found in proved]),
            shares=torch.stack(shares) if shares else None,
            left_out="" if not left else f"{'; '.join(left)}: the budget of {budget.seconds:g} s was spent",
        )  # fmt: skip

    def prove(self, claimed: TailBound) -> None:
        """Prove constants from their metrics.

        Raises:
            CertificateError: they are about other blocks, or one is smaller than what its metric proves.
        """
        if (self.place, self.tail.name) != (claimed.place, claimed.block):
            raise CertificateError(f"metric: the model has no layer and head {claimed.block!r} at {claimed.place}")
        metrics = self._metrics(claimed)
        wholes, margins = metrics[: len(self.wholes)], metrics[len(self.wholes) :]
        value = reduced(claimed.value / self._spread, 2)
        for rows, metric in zip(self.wholes, wholes, strict=True):
            if not self.inequality.proves(self.tail.spread(rows), metric.multipliers, value, metric.shares):
                raise CertificateError(f"metric: {claimed.value!r} is claimed, and its multipliers do not prove it")
        for (first, second), metric in zip(self.classes if margins else (), margins, strict=True):
            rows = self._margin(first, second)
            known = metric.value >= self._by_whole(claimed.value)
            if not known and not self.inequality.proves(rows, metric.multipliers, metric.value, metric.shares):
                raise CertificateError(
                    f"metric: {metric.value!r} is claimed for classes {first} and {second}, and its multipliers do not prove it"
                )

    def _metrics(self, claimed: TailBound) -> list[DiagonalBound]:
        """The rows of numbers of a claim, with what each is to prove."""
        multipliers, shares, outputs = claimed.multipliers, claimed.shares, len(self.tail.rows)
        values = [claimed.value] * len(self.wholes)
        if claimed.pairs is not None:
            fits = claimed.pairs.shape == (outputs, outputs) and bool((claimed.pairs.diagonal() >= 0.0).all())
            if not fits or not self.classes:
                raise CertificateError(
                    f"metric: class pairs of shape {tuple(claimed.pairs.shape)} for {outputs} outputs"
                )
            values += [float(torch.minimum(claimed.pairs[i, j], claimed.pairs[j, i])) for i, j in self.classes]
        if multipliers.ndim != 2 or len(multipliers) != len(values) or not multipliers.is_floating_point():
            raise CertificateError(
                f"metric: multipliers of shape {tuple(multipliers.shape)}, for {len(values)} rows of numbers"
            )
        if shares is not None and (shares.ndim != 2 or len(shares) != len(values)):
            raise CertificateError(f"metric: shares of shape {tuple(shares.shape)}, for {len(values)} rows of numbers")
        axes = [None] * len(values) if shares is None else list(shares)
        return [DiagonalBound(*row) for row in zip(values, multipliers, axes, strict=True)]

    def _margin(self, first: int, second: int) -> Tensor:
        """The row e_iᵀC − e_jᵀC, over the state; it rounds once, which the slack of the proofs covers."""
        return self.tail.spread((self.tail.rows[first] - self.tail.rows[second])[None])

    def _by_whole(self, value: float) -> float:
        """The constant of a margin that follows from that of all outputs, rounded up."""
        return enlarged(value / self._spread * self.reading.margin, 4)

"""How long searches for bounds may take, and what is said of those that were left out for it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Self

from wellposed.bounds.bound import NotApplicable

_SECONDS = 1e-9  # per multiplication of a product of two matrices, of all that one step of a search does
_STEPS = 12  # of a search


class OutOfBudget(NotApplicable):
    """A search was left out as it would take longer than it may."""


@dataclass(frozen=True)
class Budget:
    """Time for all searches of one certificate together.

    Attributes:
        seconds: of wall-clock time.
        deadline: of `time.monotonic`, at which searches stop.
    """

    seconds: float = math.inf
    deadline: float = math.inf

    @classmethod
    def of(cls, seconds: float) -> Self:
        """From now on."""
        return cls(seconds, time.monotonic() + seconds)

    @property
    def is_spent(self) -> bool:
        """Whether the deadline has passed."""
        return time.monotonic() >= self.deadline

    def require(self, multiplications: float, what: str) -> None:
        """Refuse a search that is certain to take longer than what is left.

        Args:
            multiplications: of a product of two of the matrices that it is about.
            what: is searched for, for the error.

        Raises:
            OutOfBudget: with the time that it would take.
        """
        needed = _SECONDS * _STEPS * multiplications
        if needed > self.deadline - time.monotonic():
            raise OutOfBudget(f"{what} would take about {needed:.2g} s or more, of {self.seconds:g} s")

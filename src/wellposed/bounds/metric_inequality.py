"""The inequality by which a diagonal metric proves a Lipschitz constant of one layer and a linear map after it.

z = σ(Wz + Ux + b) with slopes of σ in [0, 1], H = I − W: x ↦ C z*(x) is γ-Lipschitz if M(λ) = ΛH + HᵀΛ ≻ 0 and
M(λ) − CᵀC − ΛUUᵀΛ/γ² ⪰ 0 for some λ > 0 (Revay, Wang & Manchester 2020, Theorem 2, for weights that need not have been made
for it). λ may come from anywhere: only `proves` counts.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from wellposed.numerics.outward import REPRODUCIBLE

_LARGEST_SLACK = 1e-2  # relative, above what a search promises; the search failed if that proves nothing
_GROWTH = 8.0  # of the slack from one try to the next


@dataclass(frozen=True, eq=False, repr=False)
class DiagonalBound:
    """A constant with the metric that proves it.

    Attributes:
        value: γ.
        multipliers: λ, float64, shape (n,), or one for every channel.
        shares: the axes of the ellipsoid that the constant is about, shape (inputs,), where it is about one.
        dual: what the search for it says of the worst changes of the state, their second moments up to a factor, shape (n, n).
    """

    value: float
    multipliers: Tensor
    shares: Tensor | None = None
    dual: Tensor | None = None

    def __repr__(self) -> str:
        return f"DiagonalBound({self.value:.6g}, multipliers of shape {tuple(self.multipliers.shape)})"


class MetricInequality(ABC):
    """The stored numbers of one layer, for which constants are proved and looked for."""

    @abstractmethod
    def proves(self, output: Tensor, multipliers: Tensor, value: float, shares: Tensor | None = None) -> bool:
        """Whether x ↦ C z* is proved to have this constant, rounding included.

        Args:
            output: C, shape (outputs, features of the state).
            multipliers: λ.
            value: γ.
            shares: see `DiagonalBound`.
        """

    @abstractmethod
    def bound(self, output: Tensor, start: Tensor | None = None, deadline: float = math.inf) -> DiagonalBound | None:
        """A nearly least proved constant of x ↦ C z*, or None where none could be proved.

        Args:
            output: C, shape (outputs, features of the state).
            start: multipliers to start from, such as those of another C, where that helps a search.
            deadline: of `time.monotonic`, at which a search stops with what it has.
        """


def least_proved(
    claim: Callable[[float], DiagonalBound], proves: Callable[[DiagonalBound], bool], *, slack: float
) -> DiagonalBound | None:
    """The first provable one of several claims, each a little larger than the last; None where none is.

    Args:
        claim: what to claim with a relative slack above the optimum of a search.
        proves: whether a claim is proved.
        slack: the first one.
    """
    while slack < _LARGEST_SLACK:
        found = claim(slack)
        if proves(found):
            return replace(found, value=found.value * REPRODUCIBLE)
        slack *= _GROWTH
    return None

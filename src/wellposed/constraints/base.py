"""The contract of a constraint: free parameters in, an operator with its guarantee out."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import nn

from wellposed.guarantee import Guarantee
from wellposed.operators import Operator


class Constraint(nn.Module, ABC):
    """Free (unconstrained) parameters whose every value gives an operator that satisfies a theorem."""

    @abstractmethod
    def materialise(self) -> tuple[Operator, Guarantee]:
        """The state map as it will run, with the graph back to the free parameters, and what is promised of it.

        Raises:
            GuaranteeError: the stored numbers do not satisfy the theorem's condition.
        """

    @property
    @abstractmethod
    def state_features(self) -> int:
        """Number of features of the state."""

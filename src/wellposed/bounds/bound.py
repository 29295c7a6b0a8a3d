"""What an upper bound of a Lipschitz constant is, and what a theorem that gives one must do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from wellposed.bounds.factor import Factor
from wellposed.bounds.tail_bound import TailBound
from wellposed.errors import CertificateError
from wellposed.network import Network
from wellposed.numerics.norm import Norm
from wellposed.numerics.outward import REPRODUCIBLE

if TYPE_CHECKING:
    from wellposed.bounds.budget import Budget


class NotApplicable(CertificateError):
    """A theorem says nothing about a network; the message says why."""


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Bound(ABC):
    """A proved upper bound of the Lipschitz constant of one network, with what proves it.

    A bound of one's own inherits, adds its evidence as fields, and gives `proved_again`.

    Attributes:
        method: name of the `BoundMethod` that found it.
        norm: of inputs and outputs, ``"2"``, ``"inf"`` or ``"1"``.
        value: constant of the map from the network's input to its outputs.
        reason: how ``value`` was obtained, in words.
        pairs: constants of the margins y_i − y_j, float64, shape (classes, classes); None where none follow.
        factors: constants of the blocks, for a bound that multiplies them.
        tail: what diagonal metrics prove of the network's end, for a bound that rests on it.
        left_out: what the budget of its search did not suffice for, in words; empty where nothing was left out.
    """

    method: str
    norm: Norm
    value: float
    reason: str
    pairs: Tensor | None = None
    factors: tuple[Factor, ...] = ()
    tail: TailBound | None = None
    left_out: str = ""

    def __repr__(self) -> str:
        margins = "no class margins" if self.pairs is None else f"{len(self.pairs)} classes"
        return f"{type(self).__name__}({self.method}, norm {self.norm}: at most {self.value:.6g}; {margins})"

    @abstractmethod
    def proved_again(self, network: Network) -> Bound:
        """What the evidence of this bound proves of a network's stored numbers, without searching.

        Raises:
            CertificateError: nothing, as where the evidence is about another network.
        """

    def check(self, network: Network) -> Bound:
        """Prove this bound again.

        Returns:
            The bound as it was proved, which may be a little less than this one.

        Raises:
            CertificateError: a number claimed here is smaller than what its evidence proves.
        """
        found = self.proved_again(network)
        require_proved(self.method, self.value, self.pairs, found.value, found.pairs)
        return found


class BoundMethod(ABC):
    """A theorem that bounds Lipschitz constants of networks.

    Attributes:
        name: by which ``certify(model, method=name)`` asks for it.
        norms: of inputs and outputs that it is about.
    """

    name: ClassVar[str]
    norms: ClassVar[tuple[Norm, ...]]

    @abstractmethod
    def bound(self, network: Network, norm: Norm, *, budget: Budget | None = None) -> Bound:
        """The bound that follows for a network.

        Args:
            network: the stored numbers, by blocks that say what is known of them.
            norm: one of ``norms``.
            budget: of time for searches; None for no limit. What is left out for it is said in ``left_out``, or raised as
                `wellposed.bounds.budget.OutOfBudget`.

        Raises:
            CertificateError: none follows (`NotApplicable`), or something is not known of a block.
        """


def require_proved(what: str, value: float, pairs: Tensor | None, proved: float, proved_pairs: Tensor | None) -> None:
    """Refuse claims that are smaller than what was proved, by more than the rounding of another machine.

    Args:
        what: claims so, for the error.
        value: the claimed constant of all outputs.
        pairs: the claimed constants of class margins, or None.
        proved: what was proved in place of ``value``.
        proved_pairs: what was proved in place of ``pairs``.

    Raises:
        CertificateError: with the two numbers.
    """
    if not proved <= value * REPRODUCIBLE:
        raise CertificateError(f"{what}: {value!r} is claimed, {proved!r} is what can be proved")
    if pairs is None:
        return
    if (
        proved_pairs is None
        or proved_pairs.shape != pairs.shape
        or not bool((proved_pairs <= pairs * REPRODUCIBLE).all())
    ):
        raise CertificateError(f"{what}: pairs: a class-pair constant is missing, or smaller than what can be proved")

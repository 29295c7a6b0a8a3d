"""Bounds that rest on diagonal metrics of a network's tail, whatever their norm."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.bounds.affine_network import affine_network
from wellposed.bounds.bound import Bound, BoundMethod
from wellposed.bounds.budget import Budget
from wellposed.bounds.factor import Factor
from wellposed.bounds.metric_inequality import MetricInequality
from wellposed.bounds.tail import tail_of
from wellposed.bounds.tail_bound import TailBound
from wellposed.bounds.tail_problem import Reading, TailProblem
from wellposed.network import Network
from wellposed.numerics.norm import Norm


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class MetricBound(Bound):
    """A bound that rests on diagonal metrics of the network's tail.

    Attributes:
        tail: what they prove.
        source: the method, which knows the inequality.
    """

    tail: TailBound
    source: TailMethod

    @override
    def proved_again(self, network: Network) -> MetricBound:
        self.source.problem(network).prove(self.tail)
        return self.source.following(self.tail, self.source.before(network, self.tail))


class TailMethod(BoundMethod):
    """A method whose bounds rest on diagonal metrics of the network's tail, in one norm.

    Attributes:
        reason: how the bound is obtained, in words.
    """

    reason: str

    @abstractmethod
    def problem(self, network: Network, *, budget: Budget | None = None) -> TailProblem:
        """The tail of a network with the inequality that proves its constants.

        Args:
            network: the stored numbers.
            budget: see `BoundMethod.bound`.

        Raises:
            CertificateError: the network ends in something else.
        """

    def before(self, network: Network, tail: TailBound) -> tuple[Factor, ...]:
        """Constants of the blocks before a tail; none where the tail is about everything before it, too."""
        return ()

    def following(self, tail: TailBound, factors: Sequence[Factor]) -> MetricBound:
        """The bound of a whole network that follows from one of its tail and the constants of the blocks before it."""
        value, pairs = tail.from_input(factors)
        return MetricBound(
            method=self.name,
            norm=self.norms[0],
            value=value,
            pairs=pairs,
            reason=self.reason,
            tail=tail,
            source=self,
            left_out=tail.left_out,
        )

    @override
    @torch.no_grad()
    def bound(self, network: Network, norm: Norm, *, budget: Budget | None = None) -> MetricBound:
        tail = self.problem(network, budget=budget).bound(budget or Budget())
        return self.following(tail, self.before(network, tail))


class FlatTailMethod(TailMethod):
    """A method for networks of one affine layer on flat inputs, from whose inputs constants are in another norm.

    Attributes:
        inequality: of the stored W, U, a metric in which W is well posed, and how many roundings the entries of U are off.
        reading: of its constants.
    """

    inequality: Callable[[Tensor, Tensor, Tensor, int], MetricInequality]
    reading: Reading

    @override
    def problem(self, network: Network, *, budget: Budget | None = None) -> TailProblem:
        found, tail = affine_network(network, relu_only=False), tail_of(network.blocks)
        assert tail is not None
        (budget or Budget()).require(
            float(len(found.matrix)) ** 3, f"the best metric for a state of {len(found.matrix)}"
        )
        inequality = self.inequality(found.matrix, found.weight, found.metric, found.roundings)
        return TailProblem(tail=tail, place=tail.place, inequality=inequality, reading=self.reading)

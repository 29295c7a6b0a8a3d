"""The best diagonal metric of a network's tail, times the constants of the blocks before: the Euclidean bound ``"metric"``.

The inequality is that of `diagonal_metric`, or for circular convolutions that of `frequency_metric`. A normalisation with several
standard deviations before the layer is made a part of its input map.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from torch import Tensor
from typing_extensions import override

from wellposed.bounds.bound import NotApplicable
from wellposed.bounds.budget import Budget
from wellposed.bounds.diagonal_metric import dense_metric_problem
from wellposed.bounds.factor import Factor, factors_of
from wellposed.bounds.frequency_metric import circular_metric_problem
from wellposed.bounds.metric_inequality import MetricInequality
from wellposed.bounds.tail import Tail, tail_of
from wellposed.bounds.tail_bound import TailBound
from wellposed.bounds.tail_method import TailMethod
from wellposed.bounds.tail_problem import TailProblem
from wellposed.errors import CertificateError
from wellposed.layers.equilibrium import Equilibrium
from wellposed.network import Network
from wellposed.network.kinds import Block


class MetricOfTail(TailMethod):
    """The best diagonal metric of the last layer with its head, and for every class margin."""

    name, norms = "metric", ("2",)
    reason = "best diagonal metric for the last layer and its head, times the constants of the blocks before"

    @override
    def problem(self, network: Network, *, budget: Budget | None = None) -> TailProblem:
        tail = tail_of(network.blocks)
        if tail is None:
            raise NotApplicable(
                "needs a last layer z = σ(Wz + Ux + b) with slopes of σ in [0, 1], on flat inputs and well posed in some "
                "diagonal metric, with at most one linear layer after it; or a circular convolution, with averages over windows "
                "at most, Flatten() and one linear layer after it"
            )
        place, std = _folded(network.blocks, tail)
        inequality = _inequality(tail.layer, std, budget or Budget())
        if inequality is None:
            raise NotApplicable(
                f"{tail.name}: needs slopes of σ in [0, 1], and a W that is a matrix, well posed in some diagonal metric, or a "
                "circular convolution"
            )
        return TailProblem(tail=tail, place=place, inequality=inequality)

    @override
    def before(self, network: Network, tail: TailBound) -> tuple[Factor, ...]:
        return factors_of(network.blocks[: tail.place], "2")


def _inequality(layer: Equilibrium, std: Tensor | None, budget: Budget) -> MetricInequality | None:
    """The inequality of a layer, or None where none applies.

    Raises:
        OutOfBudget: a search would take too long.
    """
    what = f"the best metric for a state of {layer.state_features}"
    if layer.operator().matrix() is not None:
        budget.require(float(layer.state_features) ** 3, what)
        dense = dense_metric_problem(layer, std)
        if dense is not None:
            return dense
    if len(layer.state_shape) != 3:
        return None
    channels, height, width = layer.state_shape
    # Complex matrices of the channels at half of the frequencies are as much work.
    budget.require(2.0 * channels**3 * height * width, what)
    return circular_metric_problem(layer, std)


def _folded(blocks: Sequence[Block], tail: Tail) -> tuple[int, Tensor | None]:
    """The place of a normalisation with several standard deviations before a layer, and these; or the layer's place and None.

    For images they are those of the channels, for flat inputs those of every entry.
    """
    flat = len(tail.layer.input_shape) == 1
    size = tail.layer.in_features if flat else tail.layer.input_shape[0]
    for begin in reversed(range(tail.place)):
        block, behind = blocks[begin], blocks[begin + 1 : tail.place]
        with suppress(CertificateError):  # nothing there makes one vector of each image
            found = block.normalisation(size, behind if flat else None)
            if found is not None and bool((found[1] != found[1][0]).any()):
                return begin, found[1]
        if not (block.moves if flat else block.elementwise and block.moves):
            break
    return tail.place, None

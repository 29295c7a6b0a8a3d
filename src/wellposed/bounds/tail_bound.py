"""What diagonal metrics prove of the end of a network: its last equilibrium layer and the linear map after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from wellposed.bounds.factor import Factor, product
from wellposed.numerics.outward import enlarged, next_up


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class TailBound:
    """Constants from the input of a network's tail to its outputs, with the metrics that prove them.

    Attributes:
        block: names of the layer and of what follows it.
        place: of the first block that it is about, the layer or a normalisation before it, among all blocks.
        value: Lipschitz constant from that block's input to the outputs.
        multipliers: the diagonal metrics, float64, shape (rows, n), with the number of channels for n if they are convolutions:
            the first row for ``value`` (for ℓ∞ one for every output), then one row for each class pair (i, j), i < j, in
            lexicographic order.
        pairs: constants of the margins y_i − y_j from that block's input, shape (classes, classes), or None without a head.
        shares: axes of the ellipsoids of ℓ∞ constants, one row for each row of multipliers, shape (rows, inputs), see
            `wellposed.bounds.from_linf`; None for other norms.
        left_out: see `wellposed.bounds.bound.Bound`.
    """

    block: str
    place: int
    value: float
    multipliers: Tensor
    pairs: Tensor | None
    shares: Tensor | None = None
    left_out: str = ""

    def __repr__(self) -> str:
        margins = "no class margins" if self.pairs is None else f"{len(self.pairs)} classes"
        return f"TailBound({self.block}: at most {self.value:.6g}; {margins})"

    def from_input(self, factors: Sequence[Factor]) -> tuple[float, Tensor | None]:
        """Constants of all outputs and of the margins, from the network's input.

        Args:
            factors: constants of the blocks, or those before the tail; none where the tail is about everything before it too,
                as it is in other norms than the Euclidean one.
        """
        before = product(factors[: self.place])
        scaled = None if self.pairs is None else enlarged(self.pairs * before, 1)
        return next_up(before * self.value), scaled

"""The constants of a network's blocks, and their product."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from wellposed.errors import CertificateError
from wellposed.network.kinds import Block
from wellposed.numerics.norm import Norm
from wellposed.numerics.outward import next_up


@dataclass(frozen=True)
class Factor:
    """One block of a composition.

    Attributes:
        block: the block's name in the model.
        value: upper bound of its Lipschitz constant in the norm of inputs and outputs that the composition is about.
        reason: the theorem or norm that gives it.
    """

    block: str
    value: float
    reason: str


def factors_of(blocks: Iterable[Block], norm: Norm) -> tuple[Factor, ...]:
    """Upper bounds of the blocks' Lipschitz constants.

    Raises:
        CertificateError: nothing is known about one of the blocks, or its weights fail its theorem.
    """
    return tuple(_factor(block, norm) for block in blocks)


def _factor(block: Block, norm: Norm) -> Factor:
    answer: Any = block.constant(norm)
    if not isinstance(answer, tuple) or len(answer) != 2 or not isinstance(answer[0], float) or not answer[0] >= 0.0:
        raise CertificateError(
            f"{block.name}: the constant of a {block.kind} is answered by {answer!r}; it must be a number that is not negative, "
            "with its reason"
        )
    return Factor(block.name, *answer)


def product(factors: Sequence[Factor]) -> float:
    """The product of the factors, rounded up."""
    value = 1.0
    for factor in factors:
        value = next_up(value * factor.value)
    return value

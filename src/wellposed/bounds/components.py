"""Constants in the ℓ∞ and ℓ1 norms, entry by entry, with the vectors that prove them; see `wellposed.network.entrywise`.

Only products with vectors are needed: forwards from the vector of ones for ℓ∞, backwards from rows of the last map, whose signs
count in margins, for ℓ1.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.bounds.joint import difference
from wellposed.errors import CertificateError
from wellposed.network.entrywise import TINY, DivisionStep, EntrywiseStep
from wellposed.network.kinds import Block
from wellposed.numerics.norm import Norm
from wellposed.numerics.outward import enlarged, enlarged_sum


@dataclass(frozen=True, eq=False)
class Components:
    """Proved constants in one norm, of inputs and outputs alike.

    Attributes:
        value: of all outputs.
        pairs: of the margins y_i − y_j, shape (classes, classes), or None where no linear map ends the chain.
        vectors: for every layer NAME ``"NAME/m_matrix"``, v > 0 with Av > 0, and ``"NAME/moved"``, bounds of how far its state
            moves, shape (n,), or for ℓ1 of how far the outputs move with the offset of its state, shape (1 + margins, n).
    """

    value: float
    pairs: Tensor | None
    vectors: dict[str, Tensor]


@torch.no_grad()
def components(blocks: Sequence[Block], norm: Norm) -> Components:
    """Constants of a chain in the norm ``"inf"`` or ``"1"``.

    Raises:
        CertificateError: nothing is known entry by entry of one of the blocks.
    """
    steps, trailing = _steps(blocks)
    rows, steps = _rows(steps)
    # What an activation makes of two outputs is not bounded by their difference.
    linear = rows is not None and all(block.moves or block.is_identity for block in trailing)
    if rows is None:
        rows = torch.eye(steps[-1].outputs, dtype=torch.float64)
    places = list(itertools.combinations(range(len(rows)), 2)) if linear else []
    margins = torch.cat([rows[:0], *(difference(rows, i, j) for i, j in places)]).abs()
    width = rows.shape[1]
    if norm == "inf":
        reached = torch.ones(steps[0].inputs if steps else width, dtype=torch.float64)
        for step in steps:
            reached = step.ahead(reached)
        seen = torch.cat([rows.abs(), margins])
        bounds = enlarged_sum(seen @ reached, width + 2) + TINY * seen.any(1).double()
        whole, apart = float(bounds[: len(rows)].amax()), bounds[len(rows) :]
    else:
        back = enlarged_sum(torch.cat([rows.abs().sum(0)[None], margins]), len(rows) + 2)
        for step in reversed(steps):
            back = step.back(back)
        whole, apart = float(back[0].amax()), back[1:].amax(1)
    # Whoever proves it again counts the roundings of sums in another order.
    room = 32 * (width + sum(step.inputs + step.outputs for step in steps))
    whole, apart = enlarged(whole, room), enlarged(apart, room)
    pairs: Tensor | None = None
    if linear and len(rows) > 1:
        pairs = torch.zeros(len(rows), len(rows), dtype=torch.float64)
        for (i, j), bound in zip(places, apart.tolist(), strict=True):
            pairs[i, j] = pairs[j, i] = bound
    vectors = {name: tensor for step in steps for name, tensor in step.evidence().items()}
    return Components(whole, pairs, vectors)


def _steps(blocks: Sequence[Block]) -> tuple[list[EntrywiseStep], Sequence[Block]]:
    """The steps of a chain, and the blocks after the last one that is more than a contraction of entries."""
    places = [place for place, block in enumerate(blocks) if not block.contracts_entries]
    if not places:
        raise CertificateError("model: no block with weights")
    steps: list[EntrywiseStep] = []
    following = places[-1] + 1
    for place in reversed(places):
        block = blocks[place]
        known = block.normalisation(steps[0].inputs, blocks[place + 1 : following]) if steps else None
        own = block.entrywise() if known is None else [DivisionStep(known[1])]
        if own is None:
            raise block.unknown("no componentwise bound")
        steps, following = [*own, *steps], place
    return steps, blocks[places[-1] + 1 :]


def _rows(steps: list[EntrywiseStep]) -> tuple[Tensor | None, list[EntrywiseStep]]:
    """The matrix that ends a chain, with its signs, and the steps before it; None and all steps where none does."""
    matrix = steps[-1].matrix
    return (None, steps) if matrix is None else (matrix, steps[:-1])

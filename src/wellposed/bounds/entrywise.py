"""Constants in the ℓ∞ and ℓ1 norms, entry by entry: the bound ``"entrywise"``; see `wellposed.network.entrywise`.

Only products with vectors are needed: forwards from the vector of ones for ℓ∞, backwards from rows of the last map, whose signs
count in margins, for ℓ1. For positive concave layers they are exact.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.bounds.bound import Bound, BoundMethod, NotApplicable
from wellposed.bounds.budget import Budget
from wellposed.network import Network
from wellposed.network.entrywise import DivisionStep, EntrywiseStep
from wellposed.network.kinds import Block
from wellposed.numerics.norm import Norm
from wellposed.numerics.outward import TINY, enlarged, enlarged_sum


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class EntrywiseBound(Bound):
    """A bound by how far single entries move, which the weights alone prove."""

    @override
    def proved_again(self, network: Network) -> EntrywiseBound:
        return entrywise_bound(network.blocks, self.norm)


class Entrywise(BoundMethod):
    """Sensitivities entry by entry, from block to block."""

    name, norms = "entrywise", ("inf", "1")

    @override
    def bound(self, network: Network, norm: Norm, *, budget: Budget | None = None) -> EntrywiseBound:
        return entrywise_bound(network.blocks, norm)


@torch.no_grad()
def entrywise_bound(blocks: Sequence[Block], norm: Norm) -> EntrywiseBound:
    """Constants of a chain of blocks in the norm ``"inf"`` or ``"1"``.

    Raises:
        CertificateError: nothing is known entry by entry of one of the blocks.
    """
    steps, trailing = _steps(blocks)
    rows, steps = _rows(steps)
    # What an activation makes of two outputs is not bounded by their difference.
    linear = rows is not None and all(block.moves or block.is_identity for block in trailing)
    if rows is None:
        rows = torch.eye(steps[-1].outputs, dtype=torch.float64, device="cpu")
    places = list(itertools.combinations(range(len(rows)), 2)) if linear else []
    # Differences of rows round once, which their sums count.
    margins = torch.cat([rows[:0], *((rows[i] - rows[j])[None] for i, j in places)]).abs()
    whole, apart = (_from_largest_inputs if norm == "inf" else _from_sums_of_inputs)(steps, rows, margins)
    # Whoever proves it again counts the roundings of sums in another order.
    room = 32 * (rows.shape[1] + sum(step.inputs + step.outputs for step in steps))
    whole, apart = enlarged(whole, room), enlarged(apart, room)
    pairs: Tensor | None = None
    if linear and len(rows) > 1:
        pairs = torch.zeros(len(rows), len(rows), dtype=torch.float64, device="cpu")
        for (i, j), bound in zip(places, apart.tolist(), strict=True):
            pairs[i, j] = pairs[j, i] = bound
    return EntrywiseBound(
        method=Entrywise.name, norm=norm, value=whole, pairs=pairs,
        reason="componentwise sensitivity, block by block",
    )  # fmt: skip


def _from_largest_inputs(steps: list[EntrywiseStep], rows: Tensor, margins: Tensor) -> tuple[float, Tensor]:
    """Constants in ℓ∞ of all outputs and of margins, forwards from inputs that all move by one."""
    width = rows.shape[1]
    reached = torch.ones(steps[0].inputs if steps else width, dtype=torch.float64, device="cpu")
    for step in steps:
        reached = step.ahead(reached)
    seen = torch.cat([rows.abs(), margins])
    bounds = enlarged_sum(seen @ reached, width + 2) + TINY * seen.any(1).double()
    return float(bounds[: len(rows)].amax()), bounds[len(rows) :]


def _from_sums_of_inputs(steps: list[EntrywiseStep], rows: Tensor, margins: Tensor) -> tuple[float, Tensor]:
    """Constants in ℓ1 of all outputs and of margins, backwards from the rows to single inputs."""
    back = enlarged_sum(torch.cat([rows.abs().sum(0)[None], margins]), len(rows) + 2)
    for step in reversed(steps):
        back = step.back(back)
    return float(back[0].amax()), back[1:].amax(1)


def _steps(blocks: Sequence[Block]) -> tuple[list[EntrywiseStep], Sequence[Block]]:
    """The steps of a chain, and the blocks after the last one that is more than a contraction of entries."""
    places = [place for place, block in enumerate(blocks) if not block.contracts_entries]
    if not places:
        raise NotApplicable("no block with weights")
    steps: list[EntrywiseStep] = []
    following = places[-1] + 1
    for place in reversed(places):
        block = blocks[place]
        known = block.normalisation(steps[0].inputs, blocks[place + 1 : following]) if steps else None
        own = block.entrywise() if known is None else [DivisionStep(known[1])]
        if own is None:
            raise block.unknown("no componentwise bound")
        if steps and own[-1].outputs != steps[0].inputs:  # as where a map acts on the rows of its input
            raise NotApplicable(f"{block.name}: gives {own[-1].outputs} entries where {steps[0].inputs} are taken")
        steps, following = [*own, *steps], place
    return steps, blocks[places[-1] + 1 :]


def _rows(steps: list[EntrywiseStep]) -> tuple[Tensor | None, list[EntrywiseStep]]:
    """The matrix that ends a chain, with its signs, and the steps before it; None and all steps where none does."""
    matrix = steps[-1].matrix
    return (None, steps) if matrix is None else (matrix, steps[:-1])

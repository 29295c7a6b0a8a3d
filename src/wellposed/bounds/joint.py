"""A bound for an equilibrium layer together with the linear head after it, and for every class margin.

The product of their norms wastes that the head looks at the state in a few directions only, and that the layer's worst
direction is not one of them; see `wellposed.bounds.diagonal_metric` for the bound, and for circular convolutions
`wellposed.bounds.frequency_metric`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.bounds.diagonal_metric import DenseMetricProblem, dense_metric_problem
from wellposed.bounds.frequency_metric import CircularMetricProblem, circular_metric_problem
from wellposed.bounds.product import Factor, product
from wellposed.bounds.tail import Tail, tail_of
from wellposed.errors import CertificateError
from wellposed.network.kinds import Block
from wellposed.numerics.norm import Norm
from wellposed.numerics.outward import next_up


@dataclass(frozen=True, eq=False)
class Joint:
    """What was proved of one layer and its head.

    Attributes:
        block: names of the two.
        place: of the first block that it is about, the layer or a normalisation before it, among all blocks.
        value: Lipschitz constant from that block's input to the logits.
        multipliers: the diagonal metrics that prove it, float64, shape (rows, n), with the number of channels for n if they
            are convolutions: the first row for ``value`` (for ℓ∞ one for every output), then one row for each class pair
            (i, j), i < j, in lexicographic order.
        pairs: constants of the margins y_i − y_j from the same input, shape (classes, classes), or None without a head.
        shares: of the inputs in the ellipsoids of ℓ∞ constants, one row for each row of multipliers; see `ellipsoids`.
        folded: whether the first block is a normalisation that was made a part of the layer's input map.
    """

    block: str
    place: int
    value: float
    multipliers: Tensor
    pairs: Tensor | None
    shares: Tensor | None = None
    folded: bool = False


def _parts(blocks: Sequence[Block], largest: int | None = None, *, fold: bool) -> _Parts | None:
    """What joint bounds are about, or None where none applies.

    Args:
        blocks: in order.
        largest: the largest state to do it for: the work grows with its cube.
        fold: whether a normalisation with several standard deviations before the layer is made a part of its input map.
    """
    tail = tail_of(blocks)
    if tail is None:
        return None
    begin, std = _folded(blocks, tail) if fold else (tail.place, None)
    layer, work = tail.layer, largest**3 if largest is not None else math.inf
    if layer.state_features**3 <= work:
        dense = dense_metric_problem(layer, std)
        if dense is not None:
            return _Parts(begin, tail, dense)
    if len(layer.state_shape) == 3:
        channels, height, width = layer.state_shape
        if channels**3 * height * width <= (work if math.isinf(work) else work // 2):  # as much work
            circular = circular_metric_problem(layer, std)
            return None if circular is None else _Parts(begin, tail, circular)
    return None


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


@dataclass(frozen=True, eq=False)
class _Parts:
    """A layer and its head. Differences of rows of the head come before they are spread over the state: so they round least."""

    place: int
    tail: Tail
    block: DenseMetricProblem | CircularMetricProblem


def joint_bound(blocks: Sequence[Block], *, largest: int | None = None, fold: bool = True) -> Joint | None:
    """The bound in the best diagonal metric; None where it does not apply.

    Args:
        blocks: in order.
        largest: the largest state to do it for, or as much work with images: it grows with the cube of the state or channels.
        fold: whether a normalisation with several standard deviations before the layer is made a part of its input map.
    """
    parts = _parts(blocks, largest, fold=fold)
    if parts is None:
        return None
    block, output = parts.block, parts.tail.rows
    whole = block.bound(parts.tail.spread(output))
    if whole is None:
        return None
    rows, pairs = [whole.multipliers], None
    if parts.tail.has_head and len(output) > 1:
        pairs = torch.zeros(len(output), len(output), dtype=torch.float64)
        for first, second in itertools.combinations(range(len(output)), 2):
            margin = block.bound(parts.tail.spread(difference(output, first, second)), whole.multipliers)
            # Both are proved: |Δ(y_i − y_j)| ≤ √2·|Δy|.
            fallback = _by_whole(whole.value)
            value, row = (fallback, whole.multipliers) if margin is None else (margin.value, margin.multipliers)
            pairs[first, second] = pairs[second, first] = value
            rows.append(row)
    folded = parts.place < parts.tail.place
    return Joint(parts.tail.name, parts.place, whole.value, torch.stack(rows), pairs, folded=folded)


def following(joint: Joint, factors: Sequence[Factor], norm: Norm) -> tuple[float, Tensor | None]:
    """Constants of all outputs and of the margins that follow from a joint bound.

    Args:
        joint: the bound.
        factors: constants of the blocks.
        norm: in others than the Euclidean one a joint bound is about everything before the layer too.
    """
    before = product(list(factors[: joint.place])) if norm == "2" else 1.0
    scaled = None if joint.pairs is None else joint.pairs * before * (1.0 + 2.0**-51)
    return next_up(before * joint.value), scaled


def difference(output: Tensor, first: int, second: int) -> Tensor:
    """The row difference e_iᵀC − e_jᵀC, shape (1, n); it rounds once, which the slack of `proves` covers."""
    return (output[first] - output[second])[None]


def check_joint(blocks: Sequence[Block], joint: Joint) -> None:
    """Prove a joint bound again from its multipliers.

    Raises:
        CertificateError: it is about other blocks, or a value is smaller than what its multipliers prove.
    """
    parts = _parts(blocks, fold=joint.folded)
    if parts is None or (parts.place, parts.tail.name) != (joint.place, joint.block):
        raise CertificateError(f"joint: the model has no layer and head {joint.block!r}")
    block, output, multipliers = parts.block, parts.tail.rows, joint.multipliers
    pairs = list(itertools.combinations(range(len(output)), 2))
    rows = 1 if joint.pairs is None else 1 + len(pairs)
    if multipliers.ndim != 2 or len(multipliers) != rows or not multipliers.is_floating_point():
        raise CertificateError(f"joint: multipliers of shape {tuple(multipliers.shape)}, for {rows} rows of numbers")
    if not block.proves(parts.tail.spread(output), multipliers[0], joint.value):
        raise CertificateError(f"joint: {joint.value!r} is claimed, and its multipliers do not prove it")
    if joint.pairs is None:
        return
    if joint.pairs.shape != (len(output), len(output)) or not bool((joint.pairs.diagonal() >= 0.0).all()):
        raise CertificateError(f"joint: class pairs of shape {tuple(joint.pairs.shape)} for {len(output)} outputs")
    for (first, second), row in zip(pairs, multipliers[1:], strict=True):
        claimed = min(float(joint.pairs[first, second]), float(joint.pairs[second, first]))
        margin = parts.tail.spread(difference(output, first, second))
        if not claimed >= _by_whole(joint.value) and not block.proves(margin, row, claimed):
            raise CertificateError(
                f"joint: {claimed!r} is claimed for classes {first} and {second}, and its multipliers do not prove it"
            )


def _by_whole(value: float) -> float:
    """The constant of a margin that follows from that of all logits, rounded up."""
    return next_up(value * math.sqrt(2.0)) * (1.0 + 1e-15)

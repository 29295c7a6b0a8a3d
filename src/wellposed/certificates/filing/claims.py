"""What a certificate file may claim: the constants that its evidence proves, a little above those of the certificate."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wellposed.bounds.entrywise import entrywise_bound
from wellposed.bounds.factor import Factor
from wellposed.bounds.tail_bound import TailBound
from wellposed.certificates.filing.entries import Entries, entries
from wellposed.errors import CertificateError
from wellposed.network import Network
from wellposed.numerics.norm import Norm
from wellposed.numerics.outward import enlarged


@dataclass(frozen=True, eq=False, repr=False)
class Claims:
    """Constants with what proves them.

    Attributes:
        lipschitz: of all outputs.
        pairs: of class margins, shape (classes, classes), or None.
        blocks: entries of the blocks.
        tensors: the evidence.
        by_components: whether vectors in the evidence bound the sensitivity of every layer.
    """

    lipschitz: float
    pairs: Tensor | None
    blocks: Entries
    tensors: dict[str, Tensor]
    by_components: bool = False

    def __repr__(self) -> str:
        return f"Claims({self.lipschitz:.6g}, {len(self.blocks)} blocks, {len(self.tensors)} tensors)"


def claims(
    network: Network,
    norm: Norm,
    factors: tuple[Factor, ...],
    metric_bound: TailBound | None,
    lipschitz: float,
    pairs: Tensor | None,
) -> Claims:
    """The claims of a certificate's file.

    Args:
        network: what the certificate is about.
        norm: of inputs and outputs.
        factors: constants of the blocks, for the Euclidean norm.
        metric_bound: what diagonal metrics prove of the last layer with its head.
        lipschitz: the certificate's constant.
        pairs: the certificate's constants of class margins, shape (classes, classes), or None.
    """
    blocks, tensors = entries(network, factors if norm == "2" else None, metric_bound)
    if metric_bound is not None:
        tensors["joint/multipliers"] = metric_bound.multipliers
        if metric_bound.shares is not None:
            tensors["joint/shares"] = metric_bound.shares
    if norm == "2":
        return Claims(*_of_blocks(blocks, factors, metric_bound, lipschitz, pairs), blocks, tensors)
    known = [] if metric_bound is None else [metric_bound.from_input(())]
    proved = None
    with suppress(CertificateError):  # not every chain has constants component by component
        proved = entrywise_bound(network.blocks, norm)
        known.append((proved.value, proved.pairs))
        tensors.update(proved.vectors)
    apart = [margins for _, margins in known if margins is not None]
    least = torch.stack(apart).amin(0) if apart else None
    return Claims(min(value for value, _ in known), least, blocks, tensors, proved is not None)


def _of_blocks(
    blocks: Entries, factors: tuple[Factor, ...], metric_bound: TailBound | None, lipschitz: float, pairs: Tensor | None
) -> tuple[float, Tensor | None]:
    """The Euclidean constants of all outputs and of class margins that follow from the constants of the entries."""
    values = [entry["value"] for entry in blocks]
    both = zip(values, factors, strict=True)
    larger = math.prod(value / factor.value for value, factor in both if value > factor.value)
    if larger > 1.0:  # the checker rounds the product of all values up, twice a block at most, as this quotient rounds
        larger = enlarged(larger, 4 * len(values))
    margins = None if pairs is None else pairs * larger
    if metric_bound is None:
        return lipschitz * larger, margins
    # The metric bound is what the checker follows, also where the product is a little below it.
    own = tuple(replace(factor, value=value) for factor, value in zip(factors, values, strict=True))
    whole, apart = metric_bound.from_input(own)
    return whole, margins if apart is None else apart

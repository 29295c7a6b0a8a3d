"""What a certificate file may claim: the constants that its evidence proves, a little above those of the certificate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from wellposed.bounds.entrywise import entrywise_bound
from wellposed.bounds.factor import Factor
from wellposed.bounds.tail_bound import TailBound
from wellposed.certificates.evidence.blocks import describe
from wellposed.errors import CertificateError
from wellposed.network import Network
from wellposed.numerics.norm import Norm


@dataclass(frozen=True, eq=False)
class Claims:
    """Constants with what proves them.

    Attributes:
        lipschitz: of all outputs.
        pairs: of class margins, or None.
        blocks: entries of the blocks.
        tensors: the evidence.
        by_components: whether vectors in the evidence bound the sensitivity of every layer.
    """

    lipschitz: float
    pairs: Tensor | None
    blocks: list[dict[str, Any]]
    tensors: dict[str, Tensor]
    by_components: bool


def claims(
    network: Network,
    norm: Norm,
    factors: tuple[Factor, ...],
    joint: TailBound | None,
    lipschitz: float,
    pairs: Tensor | None,
) -> Claims:
    """The claims of a certificate's file.

    Args:
        network: what the certificate is about.
        norm: of inputs and outputs.
        factors: constants of the blocks, for the Euclidean norm.
        joint: what is proved of the last layer with its head.
        lipschitz: the certificate's constant.
        pairs: likewise, of class margins.
    """
    euclidean, chain = norm == "2", network.blocks
    blocks, tensors = describe(network, factors if euclidean else None, joint)
    known: list[tuple[float, Tensor | None]] = []
    if euclidean:
        larger = 1.0
        for block, factor in zip(blocks, factors, strict=True):
            if block["value"] > factor.value:
                larger = larger * (block["value"] / factor.value) * (1.0 + 1e-14)
        own = tuple(replace(factor, value=block["value"]) for factor, block in zip(factors, blocks, strict=True))
        found = None if joint is None else joint.from_input(own)
        margins = None if pairs is None else pairs * larger
        # Where there is a joint bound it is what the checker follows, also where the product is a little below it.
        known.append(
            (lipschitz * larger, margins) if found is None else (found[0], margins if found[1] is None else found[1])
        )
    elif joint is not None:
        known.append(joint.from_input(()))
    vectors = None
    if not euclidean:
        try:
            vectors = entrywise_bound(chain, norm)
            tensors.update(vectors.vectors)
            known.append((vectors.value, vectors.pairs))
        except CertificateError:
            pass
    apart = [part for _, part in known if part is not None]
    return Claims(
        min(value for value, _ in known), torch.stack(apart).amin(0) if apart else None, blocks, tensors, vectors is not None
    )  # fmt: skip

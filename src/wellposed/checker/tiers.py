"""Equilibria of images in several sizes, one for each: W = T − KᵀPK, T and K circular convolutions, P zero or one for each pixel.

The next one is driven by L·E·K·z, L a circular convolution and E a choice of pixels that P keeps. Together they are one
equilibrium, whose I − W is a skew map, plus AᵀA for an A with −Lᵀ/2 on its diagonal and E·K below it, plus the maps
I − T − LLᵀ/4 of each size, plus KᵀPK − (EK)ᵀEK ⪰ 0. With k > 0 below all Hermitian parts of I − T − LLᴴ/4, all images of the
state together move by no more than the offset of the first one over k.
"""

import itertools
from typing import Any

import numpy as np

from . import circulated
from .claim import Claim
from .dense import constant as constant
from .frequencies import all_semidefinite, spectrum
from .node import Node
from .proofs import UNIT, Array, like, nearest, require, rounding_constant, up
from .shapes import Shape

_LINK = ("Circular", "Placed", "Circular", "TierEquilibrium")  # from one equilibrium back to that before


def shape(node: Node, given: Shape) -> Shape:
    """The shape of a state, once the numbers are shown to be for it."""
    circulated.shape(node, given)
    require(node.numbers["drive"].shape == (), "shapes", f"{node.name}: its drive is no scalar")
    through, keep = node.numbers["K"], node.numbers["keep"]
    require(through.ndim == 5 and keep.ndim == 3, "shapes", f"{node.name}: K {through.shape}, keep {keep.shape}")
    seen = through.shape[2]
    for role, size in (("K", (seen, given[0])), ("into", (seen, given[0])), ("out", (given[0], seen))):
        spectrum(node, role, (given[1], given[2]), size)
    require(keep.shape == (1, *given[1:]), "shapes", f"{node.name}: keep has shape {keep.shape} for {given}")
    return given


def check(node: Node, claim: Claim, before: Node) -> None:
    """Prove that an equilibrium is unique, and the sensitivity that its node's bound of errors relies on."""
    keep = node.numbers["keep"]
    require(((keep == 0.0) | (keep == 1.0)).all(), "options", f"{node.name}: keep has other entries than 0 and 1")
    circulated.check(node, claim, before)  # for I − T alone, of which I − W has more


def together(nodes: list[Node], last: Node, found: list[Any]) -> list[Any]:
    """The constant of an equilibrium together with those that drive it, if that is proved.

    Args:
        nodes: of the network.
        last: the equilibrium.
        found: constants of the edges before it.
    """
    tiers, drives = [last], list[Node]()
    while (link := _before(nodes, tiers[-1])) is not None:
        tiers.append(link[0])
        drives.append(link[1])
    if not drives:
        return []
    parts = [_remaining(tier, drive) for tier, drive in itertools.zip_longest(tiers, drives)]
    known = 0.5 * min(float(np.linalg.eigvalsh(nearest(twice))[..., 0].min()) for twice, _ in parts)
    if not known > 0.0:
        return []
    least = like(parts[0][1], known * (1.0 - 1e-9))
    for twice, error in parts:
        if not all_semidefinite(twice - 2.0 * least * np.eye(twice.shape[2]), error + 16.0 * UNIT * least):
            return []
    return [up(found[tiers[-1].sources[0]] / least * (1.0 + 4.0 * UNIT))]


def _before(nodes: list[Node], tier: Node) -> tuple[Node, Node] | None:
    """The equilibrium that drives another one as above, and the node of L; None if none does."""
    chain = [tier]
    for _ in _LINK:
        chain += [nodes[source] for source in chain[-1].sources[:1]]
    if tuple(node.kind for node in chain[1:]) != _LINK:
        return None
    last, placed, first, source = chain[1:]
    index, kept = placed.numbers["index"], source.numbers["keep"].reshape(-1) == 1.0
    inside = index[index < kept.size]  # each in one place, as was checked
    same = first.numbers["T"].shape == source.numbers["K"].shape
    same = same and bool((first.numbers["T"] == source.numbers["K"]).all())
    good = same and index.ndim == 1 and placed.shape[0] == first.shape[0] and bool(kept[inside].all())
    return (source, last) if good else None


def _remaining(tier: Node, drive: Node | None) -> tuple[Array, Array]:
    """Twice the Hermitian parts of I − T − LLᴴ/4 at all frequencies, and bounds of their errors in the Euclidean norm."""
    core, sizes = circulated.convolution(tier)
    twice, error = core + core.conj().swapaxes(2, 3), 16.0 * UNIT * sizes
    if drive is not None:
        into = spectrum(drive, "T", (tier.shape[1], tier.shape[2]), (tier.shape[0], drive.numbers["T"].shape[3]))
        twice = twice - 0.5 * into @ into.conj().swapaxes(2, 3)
        lost = np.abs(into) @ np.abs(into).swapaxes(2, 3)
        error = error + 4.0 * rounding_constant(2 * into.shape[3] + 16) * lost.sum(3).max(2)
    return twice, error

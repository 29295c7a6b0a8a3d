"""Circular convolutions of images that are given by one matrix for every frequency, and their norms."""

from typing import Any

import numpy as np

from .claim import Claim
from .frequencies import check_turns, norm_of_gram, spectrum
from .node import Node
from .proofs import Array, near_one, require, rounding_constant
from .shapes import Shape


def shape(node: Node, given: Shape) -> Shape:
    """The shape of an image behind a convolution, which keeps its size; the transforms are those of such images."""
    bias = node.numbers["b"]
    fits = len(given) == 3 and bias.ndim == 3 and bias.shape[1:] == (1, 1)
    require(fits, "shapes", f"{node.name}: a bias {bias.shape} for {given}")
    check_turns(node, (given[1], given[2]))
    spectrum(node, "T", (given[1], given[2]), (len(bias), given[0]))
    return (len(bias), *given[1:])


def check(node: Node, claim: Claim, before: Node) -> None:
    """Prove the norm that a node's bound of errors relies on."""
    stored, channels = node.numbers["norm"][()], node.numbers["T"].shape[3]
    proved = norm_at_frequencies(node, "T", (len(node.numbers["b"]), channels))
    require(proved <= stored, "norm", f"{node.name}: {stored} is stored, {proved} is proved")


def constant(node: Node, nodes: list[Node], claim: Claim) -> Any:
    """The Euclidean constant of a convolution, which was proved."""
    return node.numbers["norm"][()]


def norm_at_frequencies(node: Node, role: str, size: tuple[int, int]) -> Any:
    """A proved bound of the norm of a circular convolution, which is the largest at any frequency.

    Args:
        node: whose numbers hold its matrices.
        role: of these.
        size: rows and columns of each.
    """
    found = spectrum(node, role, (node.shape[1], node.shape[2]), size)
    exponent = near_one(np.abs(found))[1]
    scaled: Array = found * 2.0**-exponent
    wide = scaled if size[0] <= size[1] else scaled.conj().swapaxes(2, 3)
    turned = wide.conj().swapaxes(2, 3)
    sizes = np.abs(wide) @ np.abs(turned)
    # Real and imaginary parts are sums of twice as many products, of at most these sizes.
    error = 4.0 * rounding_constant(2 * max(size) + 16) * sizes.sum(3).max() + 1e-290
    return norm_of_gram(wide @ turned, error, exponent)

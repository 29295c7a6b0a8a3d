"""Equilibria z = m·σ(Wz + q) of images, W = I − Ψ(C + FᵀF), C a circular convolution; slopes of σ in [0, 1], m zero or one.

Every change has Δzᵀ Λ(Δq + (W − I)Δz) ≥ 0 for Λ = Ψ⁻¹, as for each entry 0 ≤ Δz ≤ Δ(Wz + q) or the other way round. So with
k > 0 below the Hermitian part of C at every frequency z is unique, and |Δz| ≤ max Λ·|Δq|/k. A node without a Ψ stores I − C.
"""

import math
from importlib import import_module
from typing import Any

import numpy as np

from .claim import Claim
from .dense import constant as constant
from .dense import require_monotone
from .frequencies import all_semidefinite, check_turns, spectrum
from .node import Node
from .proofs import UNIT, Array, require
from .shapes import Shape, target

KINDS = ("CirculatedEquilibrium", "ScaledEquilibrium")
_SMALLEST, _LARGEST = 1e-30, 1e30  # of steps and metrics


def shape(node: Node, given: Shape) -> Shape:
    """The shape of a state, once the numbers are shown to be for it."""
    numbers, size = node.numbers, (given[0], given[0])
    require(len(given) == 3, "shapes", f"{node.name}: states {given} are no images")
    check_turns(node, given[1:])
    for role in ("T", "R"):
        spectrum(node, role, given[1:], size)
    for role in ("mask", "drive", "scale"):
        extents = numbers[role].shape if role in numbers else ()
        fits = len(extents) <= 3 and all(
            have in (1, want) for have, want in zip(extents[::-1], given[::-1], strict=False)
        )
        require(fits, "shapes", f"{node.name}: {role} has shape {extents} for states {given}")
    if node.kind == "ScaledEquilibrium":
        rows, entries = len(numbers["out"]), math.prod(given)
        forms = [(role, numbers[role].shape) for role in ("G", "into", "out")]
        good = forms[0][1][1:] == (entries,) and forms[1][1] == (entries, rows) and forms[2][1] == (rows, entries)
        require(good and numbers["G"].ndim == 2, "shapes", f"{node.name}: {forms} for states {given}")
        require(target(numbers["shape"], node.name) == given, "shapes", f"{node.name} makes other states of its own")
    return given


def check(node: Node, claim: Claim, before: Node) -> None:
    """Prove that an equilibrium is unique, and the sensitivity that its node's bound of errors relies on."""
    drive, mask, scale, value = node.numbers["drive"], node.numbers["mask"], metric(node), sensitivity(node)
    require_monotone(node, bool((drive == 1.0).all()))
    require(_SMALLEST < drive.min() <= drive.max() < _LARGEST, "options", f"{node.name}: steps are not positive")
    require(((mask == 0.0) | (mask == 1.0)).all(), "options", f"{node.name}: its mask has other entries than 0 and 1")
    require(_SMALLEST < scale.min() <= scale.max() < _LARGEST, "options", f"{node.name}: its metric is not positive")
    core, sizes = convolution(node)
    least = (1.0 + 1e-14) / (scale.min() * value)
    gaps = core + core.conj().swapaxes(2, 3) - 2.0 * least * np.eye(core.shape[2])
    error = 16.0 * UNIT * (sizes + least)
    require(all_semidefinite(gaps, error), "sensitivity", f"{node.name}: {value} is not proved")


def joint(node: Node, nodes: list[Node], found: list[Any], claim: Claim) -> list[Any]:
    """The constant of an equilibrium together with those in other sizes that drive it, if that is proved."""
    driven = node.kind == "CirculatedEquilibrium" and nodes[node.sources[0]].kind == "Circular"
    return list(import_module(".tiers", __package__).together(nodes, node, found)) if driven else []


def segment(node: Node, *parts: Any) -> Any:
    """The segment around an equilibrium, see `metric.segment_of`."""
    if "G" in node.numbers and node.numbers["G"].any():
        return import_module(".bounded", __package__).BoundedSegment(*parts)
    return import_module(".pooled", __package__).PooledSegment(*parts)


def sensitivity(node: Node) -> Any:
    """What the node's bound of errors relies on."""
    return node.numbers["sensitivity"][()]


def metric(node: Node) -> Array:
    """Ψ, of a shape that broadcasts to that of a state."""
    scale = node.numbers.get("scale", np.ones((1, 1, 1)))
    return scale.reshape((1,) * (3 - scale.ndim) + scale.shape)


def convolution(node: Node) -> tuple[Array, Array]:
    """C at the stored frequencies, and bounds of the sums of sizes in its rows and columns, relative to which it rounds twice."""
    stored, eye = spectrum(node, "T", node.shape[1:], (node.shape[0], node.shape[0])), np.eye(node.shape[0])
    found = stored if node.kind == "ScaledEquilibrium" else eye - stored
    absolute = np.abs(node.numbers["T"]).sum(4)  # of what is stored before means are taken
    mirrored = np.maximum(absolute, np.flip(np.roll(absolute, -1, 0), 0)) + eye
    return found, (mirrored.sum(3) + mirrored.sum(2)).max(2) * (1.0 + 1e-12)


def low_rank(node: Node) -> Array:
    """F, shape (rows, *state)."""
    empty = np.zeros((1, *node.shape))
    return node.numbers["G"].reshape(-1, *node.shape) if "G" in node.numbers else empty

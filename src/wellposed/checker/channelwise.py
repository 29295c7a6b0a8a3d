"""Equilibria z = σ(Wz + q) of images, W a zero-padded convolution, slopes in [0, 1], channel by channel.

Let k_o be the centre tap of a channel to itself and T the sums of all other absolute taps. Of the changes of state and offset let
a and b be the Euclidean norms, channel by channel: Aa ≤ b for A = diag(1 − k) − T, by Young's inequality. With Ay ≥ s > 0 and
y > 0 A is an M-matrix, and states are unique; Aᵀt ≥ y and t ≤ κ²s show ‖A⁻¹‖₂ ≤ κ (Collatz & Wielandt).
"""

import numpy as np

from .claim import Claim
from .convolved import shape as shape
from .dense import constant as constant
from .dense import require_monotone
from .node import Node
from .proofs import require, rounding_constant
from .vectors import bounded


def check(node: Node, claim: Claim, before: Node) -> None:
    """Prove that an equilibrium is unique, and the sensitivity that its node's bound of errors relies on."""
    require_monotone(node, True)
    kernel, own = node.numbers["K"], np.arange(len(node.numbers["K"]))
    rows, columns = kernel.shape[2] // 2, kernel.shape[3] // 2
    centre, others = kernel[own, own, rows, columns], np.ones(kernel.shape)
    others[own, own, rows, columns] = 0.0
    sums, diagonal, error = (
        (np.abs(kernel) * others).sum((2, 3)),
        1.0 - centre,
        2.0 * rounding_constant(kernel[0].size + 16),
    )
    start, reach, back = (claim.take(f"{node.place}/{part}", len(own)) for part in ("start", "reach", "back"))
    good = bounded(start, reach) and bool((back >= 0.0).all() and (back < 1e200).all() and (diagonal > 0.0).all())
    for matrix, vector, wanted in ((sums, reach, start), (sums.T, back, reach)):
        least = diagonal * vector * (1.0 - error) - matrix @ vector * (1.0 + error)
        good = good and bool((least >= wanted * (1.0 + error)).all())
    value = node.numbers["sensitivity"][()]
    proved = good and np.sqrt((back / start).max()) * (1.0 + 1e-14) <= value
    require(proved, "sensitivity", f"{node.name}: {value} is not proved")

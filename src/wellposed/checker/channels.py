"""Equilibrium layers on images with a zero-padded convolution W, slopes in [0, 1], channel by channel.

Let k_o be the centre tap of a channel to itself and T the sums of all other absolute taps. Of the changes of state and offset let
a and b be the Euclidean norms, channel by channel: Aa ≤ b for A = diag(1 − k) − T, by Young's inequality. With Ay ≥ s > 0 and
y > 0 A is an M-matrix, and Aᵀt ≥ y and t ≤ κ²s show ‖A⁻¹‖₂ ≤ κ (Collatz & Wielandt).
"""

import numpy as np

from .activations import ACTIVATIONS
from .case import Block, Case, Shape
from .convolution import zero_padded_norm_at_most
from .proofs import SAFETY, Array, Refuted, bounded, rounding_constant, whole


def roles(case: Case, block: Block) -> tuple[set[str], set[str]]:
    """Names of the tensors that a block of this kind must have, and of those that it may have besides."""
    if block["activation"] not in ACTIVATIONS:
        raise Refuted("block", f"{block['name']}: unknown activation {block['activation']!r}")
    names = ("T", "slack", "log_weights", "_extra_state")
    return {f"constraint.{name}" for name in names} | {"injection.weight"}, {"injection.bias"}


def ends(case: Case, block: Block, given: Shape) -> tuple[Shape, Shape]:
    """The shapes of the values and the inputs of a block."""
    (channels, inputs), (height, width) = case.getter(block)("injection.weight").shape[:2], block["input_image"]
    stride = whole(block["stride"])
    return (channels, -(-whole(height) // stride), -(-whole(width) // stride)), (inputs, whole(height), whole(width))


def prove(case: Case, place: int, value: float) -> bool:
    """Whether a layer's own constant is proved: ‖U‖₂‖A⁻¹‖₂."""
    block = case.blocks[place]
    kernel, off = _kernel(case, block)
    rows, columns = kernel.shape[2] // 2, kernel.shape[3] // 2
    centre = np.diagonal(kernel[:, :, rows, columns])
    sums = np.abs(kernel).sum((2, 3)) - np.diag(np.abs(centre))
    error = 2.0 * rounding_constant(kernel[0].size + 16)
    sums, diagonal = (sums + error * np.abs(kernel).sum((2, 3))), (1.0 - centre)
    start, reach, back = (
        case.evidence[f"{block['name']}/{part}"].astype(np.float64) for part in ("start", "reach", "back")
    )
    if not (start.shape == reach.shape == back.shape == centre.shape) or not (diagonal > 0.0).all():
        return False
    if not bounded(start) or not (reach > 0.0).all() or not (back >= 0.0).all() or not (back < 1e200).all():
        return False
    for matrix, vector, wanted in ((sums, reach, start), (sums.T, back, reach)):
        if not (diagonal * vector * (1.0 - error) - matrix @ vector * (1.0 + error) >= wanted).all():
            return False
    unit = float(np.finfo(case.evidence[f"{block['name']}/matrix"].dtype).eps)
    jacobi = (sums + SAFETY * unit * off.sum((2, 3))) / diagonal[:, None]
    if not float(np.abs(np.linalg.eigvals(jacobi)).max()) < 1.0:
        raise Refuted(
            "rounding", f"{block['name']}: that of W is not small against what keeps it well posed; use float64"
        )
    norm = float(np.sqrt((back / start).max())) * (1.0 + 1e-14)
    height, width = block["input_image"]
    weight = case.getter(block)("injection.weight")
    return zero_padded_norm_at_most(
        weight, (whole(height), whole(width)), whole(block["stride"]), value / norm * (1.0 - 1e-13)
    )


def _kernel(case: Case, block: Block) -> tuple[Array, Array]:
    """The taps as they run, and how many units in the last place each may be off."""
    get = case.getter(block)
    free, slack, weights, mu = (get(f"constraint.{name}") for name in ("T", "slack", "log_weights", "_extra_state"))
    own = np.zeros(free.shape)
    own[:, :, free.shape[2] // 2, free.shape[3] // 2] = np.eye(len(free))
    free = free * (1.0 - own)
    sums, softplus = np.abs(free).sum((1, 2, 3)), np.logaddexp(slack, 0.0)
    scaled = free * np.exp(weights[:, None] - weights)[:, :, None, None]
    # The exponents round relative to their own size.
    spread = (8.0 + np.abs(weights[:, None]) + np.abs(weights))[:, :, None, None]
    sizes = (free[0].size + 8.0) * sums + 8.0 * (np.abs(mu) + softplus)
    off = spread * np.abs(scaled) + own * sizes[:, None, None, None]
    return case.formed(block, "matrix", scaled + own * (mu - sums - softplus)[:, None, None, None], off), off

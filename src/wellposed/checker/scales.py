"""Equilibrium layers on images of several sizes, every one convolved circularly and driving the next one; slopes in [0, 1].

I − W has a block for each size i on its diagonal, I − T_i, and is, but for a skew part, R + AᵀA with R_i = I − T_i − A_iᵀA_i,
where −2A_iᵀ is what the size before goes through on its way into i; so m below the Hermitian parts of all R_i gives the constant
‖U‖₂/m.
"""

import numpy as np

from .activations import ACTIVATIONS
from .case import Block, Case, Shape
from .convolution import (
    all_semidefinite,
    check_margin,
    frequencies,
    monotone_transfer,
    transfer,
    zero_padded_norm_at_most,
)
from .proofs import UNIT, Refuted, real, rounding_constant, whole


def roles(case: Case, block: Block) -> tuple[set[str], set[str]]:
    """Names of the tensors that a block of this kind must have, and of those that it may have besides."""
    count = len(block["images"])
    if block["activation"] not in ACTIVATIONS or count < 2:
        raise Refuted("block", f"{block['name']}: unknown activation {block['activation']!r}, or too few sizes")
    needed = {f"constraint.{name}.{k}" for name in "AB" for k in range(count)}
    needed |= {f"constraint.D.{k}" for k in range(count - 1)} | {"constraint._extra_state", "injection.weight"}
    return needed, {"injection.bias"} | {f"injection.others.{k}" for k in range(count - 1)}


def ends(case: Case, block: Block, given: Shape) -> tuple[Shape, Shape]:
    """The shapes of the values, which are the last image, and of the inputs of a block."""
    get, last = case.getter(block), len(block["images"]) - 1
    rows, columns = block["images"][last]
    height, width = block["input_image"]
    inputs = get("injection.weight").shape[1]
    return (len(get(f"constraint.A.{last}")), whole(rows), whole(columns)), (inputs, whole(height), whole(width))


def prove(case: Case, place: int, value: float) -> bool:
    """Whether ‖U‖₂/m is proved."""
    block, get = case.blocks[place], case.getter(case.blocks[place])
    least, m = real(block["monotonicity"]), float(get("constraint._extra_state"))
    for k, (rows, columns) in enumerate(block["images"]):
        grid, (a, b) = (whole(rows), whole(columns)), (get(f"constraint.{name}.{k}") for name in "AB")
        exact, lost = monotone_transfer(a, b, m, grid)
        matrices = frequencies(case, block, f"tier.{k}", exact, lost)
        gaps = np.eye(len(a)) - matrices
        error = 8.0 * UNIT * (2.0 + np.abs(matrices).sum(3).max(2) + least)
        if k:
            own = transfer(a, grid)
            off = 256.0 * np.abs(a).sum((2, 3)).T
            half = 0.5 * frequencies(case, block, f"into.{k}", -2.0 * own.conj().swapaxes(2, 3), off)
            gaps = gaps - half @ half.conj().swapaxes(2, 3)
            error = error + rounding_constant(4 * len(a) + 16) * (np.abs(half) ** 2).sum((2, 3))
        check_margin(case, block, f"tier.{k}", gaps, 2.0 * lost)
        if not all_semidefinite(0.5 * (gaps + gaps.conj().swapaxes(2, 3)) - least * np.eye(len(a)), error):
            return False
    (height, width), rest = block["input_image"], value * least * (1.0 - 4.0 * UNIT)
    size, stride = (whole(height), whole(width)), whole(block["stride"])
    return least > 0.0 and zero_padded_norm_at_most(get("injection.weight"), size, stride, rest)

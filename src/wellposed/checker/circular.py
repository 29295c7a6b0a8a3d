"""Equilibrium layers z = σ(Wz + Ux + b) on images, W a circular convolution, U a zero-padded one, slopes of σ in [0, 1].

m below the Hermitian part of I − W at every frequency gives the constant ‖U‖₂/m; with a head see `pooled`.
"""

import numpy as np

from .activations import ACTIVATIONS
from .case import Block, Case, Shape
from .convolution import all_semidefinite, check_margin, frequencies, gram, monotone_transfer, zero_padded_norm_at_most
from .pooled import check_pooled
from .proofs import UNIT, Array, Refuted, near_one, real, whole


def roles(case: Case, block: Block) -> tuple[set[str], set[str]]:
    """Names of the tensors that a block of this kind must have, and of those that it may have besides."""
    rows, columns, height, width, stride = _sizes(block)
    border = {0: 0, 1: 2}.get(block["border"], -1)
    fits = stride >= 1 and (rows, columns) == (-(-height // stride) + border, -(-width // stride) + border)
    if block["activation"] not in ACTIVATIONS or border < 0 or not fits or min(height, width) < 1:
        raise Refuted("block", f"{block['name']}: activation {block['activation']!r}, border or sizes are unknown")
    return {"constraint.A", "constraint.B", "constraint._extra_state", "injection.weight"}, {"injection.bias"}


def ends(case: Case, block: Block, given: Shape) -> tuple[Shape, Shape]:
    """The shapes of the values and the inputs of a block."""
    rows, columns, height, width, _ = _sizes(block)
    channels, inputs = case.getter(block)("injection.weight").shape[:2]
    return (channels, rows, columns), (inputs, height, width)


def prove(case: Case, place: int, value: float) -> bool:
    """Whether ‖U‖₂/m is proved, m below the Hermitian part of I − W."""
    block = case.blocks[place]
    matrices, least = _matrices(case, block), real(block["monotonicity"])
    eye = np.eye(matrices.shape[2])
    gaps = eye - 0.5 * (matrices + matrices.conj().swapaxes(2, 3)) - least * eye
    if not least > 0.0 or not all_semidefinite(gaps, 8.0 * UNIT * (1.0 + np.abs(matrices).sum(3).max(2) + least)):
        return False
    height, width, stride = _sizes(block)[2:]
    kernel = case.getter(block)("injection.weight")
    return zero_padded_norm_at_most(kernel, (height, width), stride, value * least * (1.0 - 4.0 * UNIT))


def joint(case: Case, place: int) -> None:
    """The constants of a layer with averages over its image, if any, and a linear head."""
    block = case.blocks[place]
    check_pooled(case, place, _sizes(block)[:2], _matrices(case, block), _gram(case, block))


def _sizes(block: Block) -> tuple[int, int, int, int, int]:
    """Height and width of the state, of the input, and the stride."""
    return (*(whole(e) for e in (*block["image"], *block["input_image"], block["stride"])),)  # type: ignore[return-value]


def _matrices(case: Case, block: Block) -> Array:
    """T at every frequency as it runs."""
    get, (rows, columns) = case.getter(block), _sizes(block)[:2]
    a, b, m = (get(f"constraint.{name}") for name in ("A", "B", "_extra_state"))
    exact, off = monotone_transfer(a, b, float(m), (rows, columns))
    found = frequencies(case, block, "transfer", exact, off)
    check_margin(case, block, "transfer", np.eye(len(off)) - found, off)
    return found


def _gram(case: Case, block: Block) -> tuple[Array, float, int]:
    """G over 4 to a power, its error, and the power."""
    kernel, exponent = near_one(case.getter(block)("injection.weight"))
    rows, columns, _, _, stride = _sizes(block)
    if block["border"] and kernel.shape[2] <= 3 and kernel.shape[3] <= 3:
        # The border stays zero whatever it is given, so that U may as well wrap around.
        squares, error = gram(kernel, (rows, columns), stride)
        return squares.reshape(-1, *squares.shape[2:]), error, exponent
    # A zero-padded convolution is a part of the circular one on a larger grid.
    constant = case.evidence[f"{block['name']}/gram"].astype(np.float64)
    squares, error = gram(kernel, (rows + kernel.shape[2], columns + kernel.shape[3]), stride)
    if not all_semidefinite(constant - squares, error + 4.0 * UNIT * float(np.abs(constant).sum())):
        raise Refuted("joint", f"{block['name']}: no matrix above those of the input map")
    return constant[None], 0.0, exponent

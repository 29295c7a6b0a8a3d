"""Positive concave layers z = σ(Wz + p(x)), W ≥ 0, p at least a floor β (Gabor, Piotrowski & Cavalcante 2024).

Every fixed point lies above any l ≤ σ(Wl + β), where slopes are at most D = σ'(Wl + β); so changes obey |Δz| ≤ M|Δp| with
M = (I − DW)⁻¹D, once a v > 0 with DWv < v shows that I − DW is an M-matrix. Then y ≥ D(Wy + s) ≥ 0 shows y ≥ Ms, and for s > 0,
t ≥ Wᵀ(Dt) + y, and Dt ≤ k²s shows MᵀMs ≤ k²s and ‖M‖₂ ≤ k (Collatz & Wielandt).
"""

from collections.abc import Callable

import numpy as np

from .case import Block, Case, Shape, module
from .proofs import SAFETY, Array, Refuted, bounded, norm_at_most, rounding_constant, whole

Map = Callable[[Array], Array]
# σ, and its slope on the left of a point, which is the larger one.
_CONCAVE: dict[str, tuple[Map, Map]] = {
    "tanh": (np.tanh, lambda s: np.cosh(np.minimum(s, 300.0)) ** -2.0),
    "softsign": (lambda s: s / (1.0 + s), lambda s: (1.0 + s) ** -2.0),
    "relu6": (lambda s: np.minimum(s, 6.0), lambda s: np.where(s <= 6.0, 1.0, 0.0)),
    "hardtanh": (lambda s: np.minimum(s, 1.0), lambda s: np.where(s <= 1.0, 1.0, 0.0)),
    "isru": (lambda s: s / np.sqrt(1.0 + s * s), lambda s: (1.0 + s * s) ** -1.5),
    "arctan": (np.arctan, lambda s: 1.0 / (1.0 + s * s)), "exponential": (lambda s: -np.expm1(-s), lambda s: np.exp(-s)),
    "logarithm": (np.log1p, lambda s: 1.0 / (1.0 + s)), "arcsinh": (np.arcsinh, lambda s: 1.0 / np.sqrt(1.0 + s * s)),
    "sigmoid": (lambda s: np.exp(-np.logaddexp(0.0, -s)), lambda s: 0.25 * np.cosh(np.minimum(0.5 * s, 300.0)) ** -2.0),
}  # fmt: skip


def roles(case: Case, block: Block) -> tuple[set[str], set[str]]:
    """Names of the tensors that a block of this kind must have, and of those that it may have besides."""
    norm = {f"injection.norm.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    if type(block["batch_norm"]) is not bool or block["activation"] not in _CONCAVE:
        raise Refuted("block", f"{block['name']}: unknown activation {block['activation']!r}")
    needed = {"constraint.V", "injection.weight", "_extra_state"} | ({"constraint.gain"} if block["image"] else set())
    optional = {"injection.bias"} | ({"injection.norm.weight", "injection.norm.bias"} if block["batch_norm"] else set())
    return needed | (norm if block["batch_norm"] else set()), optional


def ends(case: Case, block: Block, given: Shape) -> tuple[Shape, Shape]:
    """The shapes of the values and the inputs of a block."""
    outputs, inputs = case.getter(block)("injection.weight").shape[:2]
    if not block["image"]:
        front = () if given is None else given[:-1]
        return (*front, outputs), (*front, inputs)
    return _state(case, block), (inputs, *(whole(extent) for extent in block["input_image"]))


def _state(case: Case, block: Block) -> tuple[int, ...]:
    """The shape of one equilibrium."""
    weight = case.getter(block)("injection.weight")
    if not block["image"]:
        return weight.shape[:1]
    height, width = block["input_image"]
    pad, step = whole(block["padding"], 0), whole(block["stride"])
    extents = zip((whole(height), whole(width)), weight.shape[2:], strict=True)
    return (len(weight), *((extent + 2 * pad - taps) // step + 1 for extent, taps in extents))


def input_map(case: Case, block: Block) -> Array:
    """U with the normalisation of eval mode in it; every entry rounds a few times."""
    plain = case.getter(block)("injection.weight")
    if not block["batch_norm"]:
        return plain
    scale: Array = module("simple").batch_norm_scale(case, block, "injection.norm.")
    return plain * scale.reshape(-1, *[1] * (plain.ndim - 1))


def sensitivity(case: Case, block: Block) -> tuple[Map, Map, Array, float]:
    """W and Wᵀ as maps, D, and the relative error of sums; W is shown to be what runs, and I − DW to be an M-matrix."""
    matrix = weight(case, block)
    forward, backward = (lambda state: matrix @ state), (lambda state: matrix.T @ state)
    if block["image"]:
        forward, backward = (lambda z: _convolved(matrix, z)), (lambda z: _convolved(_turned(matrix), z))
    if not (matrix >= 0.0).all():
        raise Refuted("block", f"{block['name']}: W has negative entries")
    floor, error = float(case.getter(block)("_extra_state").reshape(-1)[0]), 2.0 * rounding_constant(matrix[0].size + 8)
    sigma, slope = _CONCAVE[block["activation"]]
    low, ones = (case.evidence[f"{block['name']}/{part}"].astype(np.float64) for part in ("floor", "perron"))
    if low.shape != _state(case, block) or ones.shape != low.shape or not (low < 1e100).all() or not bounded(ones):
        raise Refuted("block", f"{block['name']}: vectors of other shapes, or too large or small")
    fits = (floor > 0.0 or (floor == 0.0 and block["activation"] == "sigmoid")) and (low >= 0.0).all()
    if not fits or not (low <= sigma(forward(low) * (1.0 - error) + floor) * (1.0 - 1e-14)).all():
        raise Refuted("block", f"{block['name']}: no state below all fixed points")
    slopes = slope((forward(low) + floor) * (1.0 - error)) * (1.0 + 1e-13) + 1e-15
    # Also if W differed by rounding from what the weights give.
    lost = SAFETY * (16.0 + matrix[0].size) * float(np.finfo(case.evidence[f"{block['name']}/matrix"].dtype).eps)
    if not (slopes * forward(ones) * (1.0 + error) * (1.0 + lost) < ones).all():
        raise Refuted("block", f"{block['name']}: no contraction at the floor")
    return forward, backward, slopes, error


def prove(case: Case, place: int, value: float) -> bool:
    """Whether a layer's own constant is proved: ‖U‖₂‖M‖₂."""
    block = case.blocks[place]
    forward, backward, slopes, error = sensitivity(case, block)
    start, reached, back = (
        case.evidence[f"{block['name']}/{part}"].astype(np.float64) for part in ("start", "reach", "back")
    )
    up, shape = 1.0 + error, _state(case, block)
    if not start.shape == reached.shape == back.shape == shape or not bounded(start) or not (back < 1e200).all():
        return False
    if not (reached >= slopes * (forward(reached) + start) * up).all() or not (reached >= 0.0).all():
        return False
    if not (back >= (backward(slopes * back) + reached) * up).all() or not (back >= 0.0).all():
        return False
    norm = float(np.sqrt((slopes * back / start).max())) * (1.0 + 1e-14)
    rest = value / norm * (1.0 - 1e-13)
    if block["image"]:
        height, width = block["input_image"]
        size, stride = (whole(height), whole(width)), whole(block["stride"])
        good: bool = module("convolution").zero_padded_norm_at_most(input_map(case, block), size, stride, rest)
        return good
    return norm_at_most(input_map(case, block), rest)


def weight(case: Case, block: Block) -> Array:
    """The matrix or kernel of W as it runs."""
    free = case.getter(block)("constraint.V")
    made = _nonnegative(free, block["parametrisation"])
    off = 16.0 * made
    if block["image"]:
        gain = _nonnegative(case.getter(block)("constraint.gain"), block["parametrisation"])
        size = np.maximum(np.sqrt((made**2).sum((1, 2, 3))), 1e-300)
        made = made * (gain / size)[:, None, None, None]
        off = (16.0 + free[0].size) * made
    return case.formed(block, "matrix", made, off)


def _nonnegative(free: Array, parametrisation: str) -> Array:
    made = {"square": free**2, "softplus": np.logaddexp(free, 0.0), "projection": np.maximum(free, 0.0)}
    return made[parametrisation]


def _convolved(kernel: Array, state: Array) -> Array:
    """A zero-padded correlation with centred taps, of shape (channels, height, width)."""
    rows, columns = kernel.shape[2:]
    wide = np.pad(state, ((0, 0), (rows // 2, rows // 2), (columns // 2, columns // 2)))
    found = np.zeros((len(kernel), *state.shape[1:]))
    for row in range(rows):
        for column in range(columns):
            seen = wide[:, row : row + state.shape[1], column : column + state.shape[2]]
            found += np.einsum("oi,ihw->ohw", kernel[:, :, row, column], seen)
    return found


def _turned(kernel: Array) -> Array:
    """The kernel of the transpose."""
    return kernel[:, :, ::-1, ::-1].swapaxes(0, 1)

"""Explicit layers y = Sx + G·ReLU(Hx + b), S zero or the identity, by norms of H and G as they run.

With D the slopes of ReLU between two inputs, 0 ⪯ D ⪯ I. S = 0: ‖GDH‖ ≤ ‖[ψH; ψ⁻¹Gᵀ]‖²/2 for every diagonal ψ > 0. S = I and
G = −HᵀT + E, T diagonal: 0 ⪯ HᵀTDH ⪯ HᵀTH, so that max(1, ‖√T H‖² − 1) + ‖E‖‖H‖ is a constant; for any G also 1 + ‖G‖‖H‖.
"""

import math

import numpy as np

from .case import Block, Case, Shape
from .cayley import cayley, near_by_rows
from .proofs import UNIT, Array, Refuted, bounded, norm_at_most, real

_ROLES = {
    "Sandwich": {"free", "log_scale", "bias"},
    "SLL": {"free", "log_q", "bias"},
    "Residual": {"inner", "outer", "bias"},
}


def roles(case: Case, block: Block) -> tuple[set[str], set[str]]:
    """Names of the tensors that a block of this kind must have, and of those that it may have besides."""
    if block["class"] not in _ROLES:
        raise Refuted("accounting", f"{block['name']}: a {block['class']} is no explicit layer")
    return _ROLES[block["class"]], set()


def ends(case: Case, block: Block, given: Shape) -> tuple[Shape, Shape]:
    """The shapes of the values and the inputs of a block."""
    get, front = case.getter(block), () if given is None else given[:-1]
    if block["class"] == "Sandwich":
        both, outputs = get("free").shape
        return (*front, outputs), (*front, both - outputs)
    features = get("free" if block["class"] == "SLL" else "inner").shape[1]
    return (*front, features), (*front, features)


def prove(case: Case, place: int, value: float) -> bool:
    """Whether a block's own constant is proved."""
    block, get = case.blocks[place], case.getter(case.blocks[place])
    if block["class"] == "Residual":
        first, second = (real(number) for number in block["norms"])
        good = get("outer").shape == get("inner").shape[::-1] and len(get("bias")) == len(get("inner"))
        good = good and norm_at_most(get("inner"), first) and norm_at_most(get("outer"), second)
        return good and value >= (1.0 + first * second) * (1.0 + 1e-15)
    return _sandwich(case, block, value) if block["class"] == "Sandwich" else _residual(case, block, value)


def _sandwich(case: Case, block: Block, value: float) -> bool:
    get, name = case.getter(block), block["name"]
    inner, outer = (case.evidence[f"{name}/{part}"] for part in ("inner", "outer"))
    scale, unit = np.exp(get("log_scale")), float(np.finfo(inner.dtype).eps)
    frame, lost = (part[0] for part in cayley(get("free")[None]))
    size = len(scale)
    expected = math.sqrt(2.0) * np.concatenate([frame[size:].T, frame[:size].T], 1)
    good = inner.dtype == outer.dtype == case.weights[block["tensors"]["free"]].dtype and len(get("bias")) == size
    if not good or not bounded(scale) or inner.shape != (size, len(frame) - size) or outer.shape != (size, size):
        raise Refuted("matrix", f"{name}: matrices of other shapes or dtypes than the weights give")
    both = np.concatenate([inner.astype(np.float64) * scale[:, None], (outer.astype(np.float64) / scale).T], 1)
    off = unit * (lost + 16.0 + 4.0 * np.abs(get("log_scale")))
    if not near_by_rows(name, both, expected, off):
        raise Refuted("matrix", f"{name}: not what the weights give, by more than rounding")
    return value > 0.0 and norm_at_most(both, math.sqrt(2.0 * value) * (1.0 - 1e-13))


def _residual(case: Case, block: Block, value: float) -> bool:
    get = case.getter(block)
    inner, logarithms = get("free"), get("log_q")
    kept = inner.any(1)  # a unit without inputs adds a constant
    kind = np.finfo(case.weights[block["tensors"]["free"]].dtype)
    unit, lowest = float(kind.eps), float(kind.tiny) / float(kind.eps)
    largest = float(np.abs(logarithms).max(initial=0.0))
    if not len(get("bias")) == len(logarithms) == len(inner) or not largest < 300.0:
        return False
    ratios, products = np.exp(logarithms - logarithms[:, None]), np.abs(inner @ inner.T)
    sums = np.where(kept, (products * ratios).sum(1), 1.0)
    # Products, ratios and their sums round relative to their terms, and to what the precision still resolves.
    terms = ((np.abs(inner) @ np.abs(inner).T + inner.shape[1] * lowest) * (ratios + lowest)).sum(1) / sums
    off = (16.0 + inner.shape[1] + len(inner) + 4.0 * largest) * np.where(kept, terms, 0.0)
    most = max(float(sums.max()), float(ratios[products > 0.0].max(initial=0.0)))
    if not (unit * off <= 1e-2).all() or not most < 1e-2 * float(kind.max):
        raise Refuted(
            "rounding", f"{block['name']}: that of these weights is not small against the sums that scale them"
        )
    stored: Array = case.evidence[f"{block['name']}/scale"]
    wrong = stored.dtype != kind.dtype or stored.shape != sums.shape
    scale = np.where(kept, stored.astype(np.float64), 0.0)
    if wrong or not (np.abs(scale - 2.0 / sums) <= 4.0 * unit * off / sums)[kept].all():
        raise Refuted("matrix", f"{block['name']}/scale: not what the weights give, by more than rounding")
    outer = case.formed(block, "outer", -inner.T * scale, 2.0 * np.abs(inner.T * scale))
    if not bounded(scale[kept]):
        return False
    proved, missed, size = (real(number) for number in block["norms"])
    rounding = 8.0 * UNIT * float(np.linalg.norm(outer))  # of the difference
    good = norm_at_most(np.sqrt(scale)[:, None] * inner, proved * (1.0 - 1e-13)) and norm_at_most(inner, size)
    good = good and missed > rounding and norm_at_most(outer + inner.T * scale, missed - rounding)
    return good and value >= (max(1.0, proved**2 * (1.0 + 1e-15) - 1.0) + missed * size) * (1.0 + 1e-15)

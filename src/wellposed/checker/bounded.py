"""A prescribed bound γ of layers in a diagonal metric, see `scaled`, from input to output (Revay, Wang & Manchester 2020).

With the output map G and the input map ΨŨ it holds if 2s(C + FᵀF) ⪰ GᵀG/γ + s²ŨŨᵀ/γ for some s > 0 (their Condition 2). As
GᵀG ⪯ qFᵀF + r for G = κF + E, q = (1 + t)κ², r = (1 + 1/t)‖E‖², that follows from 2sγ ≥ q and C + Cᴴ − (s/γ)ŨŨᴴ ⪰ r/(sγ).
With the input map Ũ instead, and W = I − Ψ(C + FᵀF + ΛRRᵀΛ), it does from 2RRᴴ − (s/γ)ŨŨᴴ ⪰ −e and C + Cᴴ ⪰ r/(sγ) + e·max Λ².
"""

import math

import numpy as np

from .case import Block, Case
from .convolution import all_semidefinite, frequencies, transfer
from .proofs import UNIT, Array, real, rounding_constant, whole
from .scaled import scaled_map


def prove(
    case: Case, block: Block, value: float, core: tuple[Array, Array], driven: tuple[Array, float], least: float
) -> bool:
    """Whether the bound is proved.

    Args:
        case: the certificate.
        block: the layer.
        value: γ.
        core: C + Cᴴ at the stored frequencies, and sums of the sizes of its rows.
        driven: ŨŨᴴ there, and its error.
        least: the smallest Ψ.
    """
    (condition, size), (squares, missing), get = core, driven, case.getter(block)
    rows, columns = (whole(extent) for extent in block["image"])
    stride, eye = whole(block["stride"]), np.eye(condition.shape[2])
    s, factor = real(block["multiplier"]), _factor(case, block, (rows, columns))
    seen = _spread(case.formed(block, "output", *scaled_map(get, "output")), block, (rows, columns), len(eye))
    norm = float(np.linalg.norm(factor)) * (1.0 + 1e-12)
    ratio = float((seen * factor).sum()) / max(norm * norm, 1e-300)
    missed = float(np.linalg.norm(seen - ratio * factor)) * (1.0 + 1e-12) + 1e-13 * abs(ratio) * norm
    if not ratio > 0.0 or not s > 0.0:
        return False
    q = (1.0 + missed / (ratio * norm)) * ratio**2 * (1.0 + 1e-14)
    rest = missed * (missed + ratio * norm) * (1.0 + 1e-14)
    if not 2.0 * s * value * (1.0 - 1e-14) >= q:
        return False
    error, short = 8.0 * UNIT * (size + s / value * np.abs(squares).sum(3).max(2)), rest / (s * value) * (1.0 + 1e-12)
    if block["in_metric"]:
        return all_semidefinite(condition - s / value * squares, error + s / value * missing + short)
    root, around = _driven(case, block, (rows, columns), stride), real(block["around"])
    own = 2.0 * root @ root.conj().swapaxes(2, 3)
    blur = (
        8.0 * rounding_constant(root.shape[3] + 8) * (np.abs(root) ** 2).sum((2, 3))
        + s / value * missing
        + 4.0 * UNIT * around
    )
    good = around >= 0.0 and all_semidefinite(own - s / value * squares + around * eye, error + blur)
    return good and all_semidefinite(condition, error + short + around / least**2 * (1.0 + 1e-12))


def _driven(case: Case, block: Block, image: tuple[int, int], stride: int) -> Array:
    """R at every frequency as it runs."""
    free = case.getter(block)("injection.free")
    exact = math.sqrt(0.5) * transfer(free, image, stride)
    taps = np.abs(free).sum((1, 2, 3))[:, None]  # a transform rounds relative to all that it sums
    return frequencies(case, block, "driven", exact, np.broadcast_to(64.0 * taps, exact.shape))


def _factor(case: Case, block: Block, image: tuple[int, int]) -> Array:
    """F as it runs, shape (outputs, channels, height, width)."""
    channels = len(case.getter(block)("constraint.V"))
    exact = math.sqrt(0.5) * _spread(case.getter(block)("output.free"), block, image, channels)
    return case.formed(block, "factor", exact, 16.0 * np.abs(exact))


def _spread(weight: Array, block: Block, image: tuple[int, int], channels: int) -> Array:
    """A map of averages over square windows as one of the whole state."""
    side = whole(block["pool"])
    inside = image[0] // side, image[1] // side
    found = np.zeros((len(weight), channels, *image))
    small = weight.reshape(len(weight), channels, *inside) / side**2
    found[:, :, : inside[0] * side, : inside[1] * side] = small.repeat(side, 2).repeat(side, 3)
    return found

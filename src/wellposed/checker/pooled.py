"""Layers whose W is a circular convolution, with averages over their image and a linear head.

W acts on every frequency ω by a matrix T_ω, so that the condition of `dense.metric_proves` with one multiplier for each channel
falls apart: S_ω = Λ(I − T_ω) + (I − T_ω)ᴴΛ − ΛGΛ/γ² where G is above U Uᴴ. A head C, which mixes frequencies, is γ-Lipschitz
if Σ_ω C_ω S_ω⁻¹ C_ωᴴ ⪯ I, C_ω its transform; so if matrices P_ω with Σ P_ω ⪯ I have [[S_ω, C_ωᴴ], [C_ω, P_ω]] ⪰ 0.
"""

import math

import numpy as np

from .case import Case, moves_only
from .convolution import all_semidefinite
from .proofs import UNIT, Array, Refuted, near_one, rounding_constant, semidefinite
from .rows import check_rows
from .simple import window


def check_pooled(
    case: Case, place: int, image: tuple[int, int], transfer: Array, driven: tuple[Array, float, int]
) -> None:
    """The claims about a layer with averages over its image, if any, and a linear head.

    Args:
        case: the certificate.
        place: of the layer.
        image: height and width of its state.
        transfer: W at the stored frequencies, shape (rows, columns//2 + 1, channels, channels).
        driven: matrices above U Uᴴ over 4 to a power, their error, and the power.
    """
    later = [part for part in case.blocks[place + 1 :] if part["class"] != "Identity" or not moves_only(part)]
    pool = later.pop(0) if later and later[0]["kind"] == "pooling" else None
    side = 1 if pool is None else window(pool)[0]
    if [part["kind"] for part in later] != ["nonexpansive", "linear"] or later[0].get("dims") != [1, -1]:
        raise Refuted("joint", "the layer is not followed by averages, if any, Flatten and one linear map")
    if pool is not None and (pool["class"] != "AvgPool2d" or window(pool) != (side, side)):
        raise Refuted("joint", "averages over squares are known only")
    (rows, columns), (squares, missing, exponent) = image, driven
    own = [0] if columns % 2 else [0, columns // 2]
    stored_for, mean = np.full(transfer.shape[:2], 2.0), transfer.copy()
    # Of frequencies that are stored together with their mirror images the mean counts.
    mean[:, own] = 0.5 * (transfer + np.flip(np.roll(transfer, -1, 0), 0).conj())[:, own]
    stored_for[:, own] = 1.0
    matrices, counts = mean.reshape(-1, *mean.shape[2:]), stored_for.reshape(-1)
    multipliers, head = case.evidence["joint/multipliers"].astype(np.float64), case.linear_map(later[1])
    channels, inside = matrices.shape[1], (rows // side, columns // side)
    if head.shape[1] != channels * math.prod(inside) or multipliers.shape[1:] != (channels,):
        raise Refuted("joint", f"a head of shape {head.shape}, multipliers of shape {multipliers.shape}")
    eye = np.eye(channels)

    def proves(row: int, seen: Array, size: Array, claimed: float) -> bool:
        small = seen.reshape(len(seen), channels, *inside) / side**2
        wide = np.zeros((len(seen), channels, rows, columns))
        wide[:, :, : inside[0] * side, : inside[1] * side] = small.repeat(side, 2).repeat(side, 3)
        wide, power = near_one(wide)
        weights, value = np.ldexp(multipliers[row], -2 * power), math.ldexp(claimed, -power - exponent)
        if not (1e-90 < value < 1e90 and 1e-90 < weights.min() <= weights.max() < 1e90):
            return False
        half, through = weights[:, None] * (eye - matrices), weights[:, None] * squares * weights / value**2
        condition = half + half.conj().swapaxes(1, 2) - through
        sizes = weights[:, None] * (eye + np.abs(matrices))
        error = 32.0 * UNIT * (sizes + sizes.swapaxes(1, 2) + np.abs(through)).sum(2).max(1)
        error = error + 1.01 * weights.max() ** 2 * missing / value**2
        # Entries of differences of rows, and averages, have rounded, relative to ``size``.
        return _sums_to_one(condition, error, wide, counts, 4.0 * math.ldexp(float(np.abs(size).sum()), -power))

    check_rows(case, head, len(multipliers), proves)


def _sums_to_one(condition: Array, error: Array, image: Array, counts: Array, size: float) -> bool:
    """Whether Σ C_ω S_ω⁻¹ C_ωᴴ ⪯ I is proved for C = image, whose entries miss at most a unit in the last place of ``size``."""
    seen = _transformed(image)
    needed = seen.conj().swapaxes(1, 2) @ np.linalg.solve(condition, seen)
    needed = 0.5 * (needed + needed.conj().swapaxes(1, 2))
    outputs, eye = needed.shape[1], np.eye(condition.shape[1])
    left = 1.0 - float(np.linalg.eigvalsh(np.einsum("f,fab->ab", counts, needed.real))[-1])
    least = 0.5 * float(np.linalg.eigvalsh(condition)[:, 0].min())
    if not left > 0.0 or not least > 0.0:
        return False
    # Half of what is left of the identity is shared out, evenly and in proportion to the needs.
    share = (1.0 + 0.25 * left) * needed + 0.25 * left / float(counts.sum()) * np.eye(outputs)
    # Powers of two bring both diagonal blocks near one, exactly.
    first, second = (
        np.exp2(np.round(-0.5 * np.log2(np.abs(part).max((1, 2)))))[:, None, None] for part in (condition, share)
    )
    upper = np.concatenate([condition * first**2, seen * first * second], 2)
    lower = np.concatenate([seen.conj().swapaxes(1, 2) * first * second, share * second**2], 2)
    bordered = np.concatenate([upper, lower], 1)
    blur = 1.01 * error * first.reshape(-1) ** 2 + 8.0 * UNIT * np.abs(bordered).sum(2).max(1)
    if not all_semidefinite(bordered, blur) or not all_semidefinite(
        condition - least * eye, error + 2.0 * UNIT * least
    ):
        return False
    # By products with unitary matrices, and of entries that had rounded.
    lost = sum(rounding_constant(4 * extent + 64) * math.sqrt(extent) for extent in image.shape[2:]) * float(
        np.linalg.norm(image)
    )
    limit = 1.0 - 1.01 * (lost + 4.0 * UNIT * size) / math.sqrt(least)
    total = np.einsum("f,fab->ab", counts, share.real)
    rounding = rounding_constant(len(counts) + 8) * float(np.einsum("f,fab->ab", counts, np.abs(share)).sum(1).max())
    return limit > 0.0 and semidefinite(limit**2 * (1.0 - 1e-15) * np.eye(outputs) - 0.5 * (total + total.T), rounding)


def _transformed(image: Array) -> Array:
    """The unitary transform of images, shape (outputs, channels, height, width): (frequencies, channels, outputs)."""
    down, right = (
        np.exp(-2j * math.pi * (np.outer(np.arange(kept), np.arange(extent)) % extent / extent)) / math.sqrt(extent)
        for kept, extent in ((image.shape[2], image.shape[2]), (image.shape[3] // 2 + 1, image.shape[3]))
    )
    return (down @ image @ right.T).reshape(*image.shape[:2], -1).transpose(2, 1, 0)

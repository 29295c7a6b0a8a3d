"""Equilibria of images whose W is a circular convolution, with averages over the image and a linear map, in metrics of channels.

W acts on every frequency ω by a matrix T_ω, so that the condition of `dense.metric_proves` with one multiplier for each channel
falls apart: S_ω = Λ(I − T_ω) + (I − T_ω)ᴴΛ − ΛGΛ/γ² where G is above U Uᴴ. A map C, which mixes frequencies, is γ-Lipschitz
if Σ_ω C_ω S_ω⁻¹ C_ωᴴ ⪯ I, C_ω its transform; so if matrices P_ω with Σ P_ω ⪯ I have [[S_ω, C_ωᴴ], [C_ω, P_ω]] ⪰ 0.
"""

import math
from typing import Any

import numpy as np

from .circulated import convolution, low_rank, metric
from .claim import Claim
from .frequencies import all_semidefinite, counts, gram, waves
from .image_segment import ImageSegment
from .maps import Linear
from .node import Node
from .proofs import FOLDED, UNIT, Array, like, near_one, nearest, require, rounding_constant, semidefinite
from .vectors import length
from .windows import by_channel


class PooledSegment(ImageSegment):
    """A segment in metrics of its channels.

    Attributes:
        multipliers: how many a metric has.
        kernel: of the convolution, with all that each channel is multiplied with; divided by 2 to the power of ``exponent``.
    """

    def __init__(self, nodes: list[Node], maps: list[Linear], end: Node, claim: Claim) -> None:
        super().__init__(nodes, maps, end)
        outer, psi = by_channel(self.scale.reshape(-1), self.node.shape), metric(self.node)
        require(
            outer is not None and psi.shape[1:] == (1, 1) and not low_rank(self.node).any(),
            "metric", f"{self.node.name}: its W is no circular convolution, or not all pixels are driven alike",
        )  # fmt: skip
        assert outer is not None
        self.kernel, self.exponent = near_one(self.kernel * outer[:, None, None, None])
        core, sizes = convolution(self.node)
        self.multipliers, scale = len(self.kernel), np.broadcast_to(psi[:, 0], (len(self.kernel), 1))
        flat = (-1, self.multipliers, self.multipliers)
        self._displacement = (scale * core).reshape(flat)
        self._sizes = (sizes * psi.max()).reshape(-1)
        squares, self._missing = gram(self.kernel, self.grid, self.strides)
        if not self.circular:
            squares, self._missing = self._above(squares, self._missing, claim), 0.0
        self._squares = squares.reshape(flat)

    def _above(self, squares: Array, missing: Any, claim: Claim) -> Array:
        """The matrix of the evidence, which is above U Uᴴ at every frequency of the larger grid."""
        found = claim.gram(self.node, self.kernel, self.strides)
        good = all_semidefinite(found - squares, missing + 4.0 * UNIT * np.abs(found).sum())
        require(good, "metric", f"{self.name}: no matrix above those of the convolution")
        return found[None]

    def proves(self, row: int | tuple[int, int] | slice, multipliers: Array, value: Any) -> bool:
        """Whether an output, a margin, or all outputs are proved to have a constant."""
        (seen, size), squares = self.rows(row), self._squares
        seen, power = near_one(seen)
        if not 0.0 < value < 1e300 or not abs(power) < 300 or not abs(self.exponent) < 300:
            return False
        weights, bound = np.ldexp(multipliers, -2 * power), np.ldexp(value, -power - self.exponent)
        if not (1e-90 < bound < 1e90 and 1e-90 < weights.min() <= weights.max() < 1e90):
            return False
        half, through = weights[:, None] * self._displacement, weights[:, None] * squares * weights / bound**2
        condition = half + half.conj().swapaxes(1, 2) - through
        error = 32.0 * UNIT * (weights.max() * self._sizes + np.abs(through).sum(2).max(1))
        error = error + 1.01 * weights.max() ** 2 * self._missing / bound**2
        lost = rounding_constant(FOLDED) * np.ldexp(size.sum(), -power)
        return _sums_to_one(condition, error, seen, counts(self.node.shape[1:]).reshape(-1), lost)


def _sums_to_one(condition: Array, error: Array, image: Array, count: Array, missed: Any) -> bool:
    """Whether Σ C_ω S_ω⁻¹ C_ωᴴ ⪯ I is proved for C = image, which is off by so much in the Euclidean norm."""
    least = 0.5 * float(np.linalg.eigvalsh(nearest(condition))[:, 0].min())
    if not least > 0.0:
        return False
    seen = _transformed(image)
    about, behind = nearest(condition), nearest(seen)
    needed = behind.conj().swapaxes(1, 2) @ np.linalg.solve(about, behind)
    needed = 0.5 * (needed + needed.conj().swapaxes(1, 2))
    outputs, eye = needed.shape[1], np.eye(condition.shape[1])
    left = 1.0 - float(np.linalg.eigvalsh(np.einsum("f,fab->ab", count, needed.real))[-1])
    if not left > 0.0:
        return False
    # Half of what is left of the identity is shared out, evenly and in proportion to the needs.
    share: Any = (1.0 + 0.25 * left) * needed + 0.25 * left / float(count.sum()) * np.eye(outputs)
    # Powers of two bring both diagonal blocks near one, exactly.
    first, second = (
        np.exp2(np.round(-0.5 * np.log2(np.abs(part).max((1, 2)))))[:, None, None] for part in (about, share)
    )
    share = like(condition, share)
    upper = np.concatenate([condition * first**2, seen * first * second], 2)
    lower = np.concatenate([seen.conj().swapaxes(1, 2) * first * second, share * second**2], 2)
    bordered = np.concatenate([upper, lower], 1)
    blur = 1.01 * error * first.reshape(-1) ** 2 + 8.0 * UNIT * np.abs(bordered).sum(2).max(1)
    if not all_semidefinite(bordered, blur) or not all_semidefinite(
        condition - least * eye, error + 2.0 * UNIT * least
    ):
        return False
    # By products with unitary matrices, and of entries that had rounded.
    lost = sum(rounding_constant(4 * extent + 64) * math.sqrt(extent) for extent in image.shape[2:])
    lost = lost * length(image) * (1.0 + 1e-9)
    limit = 1.0 - 1.01 * (lost + missed) / np.sqrt(like(image, least))
    total = (count[:, None, None] * share.real).sum(0)
    rounding = rounding_constant(len(count) + 8) * (count[:, None, None] * np.abs(share)).sum(0).sum(1).max()
    return limit > 0.0 and semidefinite(limit**2 * (1.0 - 1e-15) * np.eye(outputs) - 0.5 * (total + total.T), rounding)


def _transformed(image: Array) -> Array:
    """The unitary transform of images, shape (outputs, channels, height, width): (frequencies, channels, outputs)."""
    down, right = (
        like(image, waves(extent)[np.outer(np.arange(kept), np.arange(extent)) % extent].conj() / math.sqrt(extent))
        for kept, extent in ((image.shape[2], image.shape[2]), (image.shape[3] // 2 + 1, image.shape[3]))
    )
    return (down @ image @ right.swapaxes(0, 1)).reshape(*image.shape[:2], -1).transpose(2, 1, 0)

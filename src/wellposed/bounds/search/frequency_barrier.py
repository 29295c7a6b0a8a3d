"""The barrier of `interior_point` for a W that convolves circularly, with one multiplier for every channel.

The discrete Fourier transform makes ΛH + HᵀΛ − ΛGΛ/t block diagonal, one Hermitian matrix of the size of the channels for every
frequency. C need not be a convolution: its few rows enter by the formula of Woodbury,
log det(S − CᵀC) = Σ log det S_ω + log det(I − C S⁻¹ Cᵀ), whatever the size of the image. Of the first sum the mean is taken
instead: many frequencies that nothing presses against would push the centre against the one bound of C that does, and cost many
steps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.bounds.search.interior_point import Barrier


class FrequencyBarrier(Barrier):
    """For matrices at the stored frequencies of a real convolution; complex128, n channels.

    Args:
        displacement: H, shape (frequencies, n, n).
        gram: G, shape (frequencies, n, n), Hermitian.
        outputs: the rows of C, in the unitary transform, shape (frequencies, n, rows).
        counts: how many frequencies each stored one stands for, float64, shape (frequencies,).
        rank: the largest of G at any frequency.
    """

    def __init__(self, displacement: Tensor, gram: Tensor, outputs: Tensor, counts: Tensor, rank: int) -> None:
        self.displacement, self.gram, self.outputs, self.rank = displacement, gram, outputs, rank
        self.counts = counts
        self.share = 1.0 / float(counts.sum())
        self.parameter = float(displacement.shape[1] + outputs.shape[2] + rank)

    def _sum(self, real: Tensor) -> Tensor:
        """Over all frequencies, of what is stored for half of them."""
        return torch.einsum("f,f...->...", self.counts, real)

    def condition(self, multipliers: Tensor) -> Tensor:
        """ΛH + HᴴΛ, shape (frequencies, n, n)."""
        half = multipliers[:, None] * self.displacement
        return half + half.mH

    def matrix(self, multipliers: Tensor, square: float) -> Tensor:
        """S without C."""
        return self.condition(multipliers) - multipliers[:, None] * self.gram * multipliers / square

    def _seen(self, solved: Tensor) -> Tensor:
        """C S⁻¹ Cᵀ from S⁻¹ Cᵀ, real and symmetric."""
        return self._sum((self.outputs.mH @ solved).real)

    @override
    def interior(self, metric: Tensor) -> tuple[Tensor, float] | None:
        """Where S ⪰ (ΛH + HᵀΛ)/4."""
        factor, failed = torch.linalg.cholesky_ex(self.condition(metric))
        if bool((failed != 0).any()):
            return None
        seen = torch.linalg.eigvalsh(self._seen(torch.cholesky_solve(self.outputs, factor)))[-1]
        through = metric[:, None] * self.gram * metric
        inner = torch.linalg.solve_triangular(factor, through, upper=False)
        inner = torch.linalg.solve_triangular(factor, inner.mH, upper=False)
        largest = float(torch.linalg.eigvalsh(0.5 * (inner + inner.mH))[:, -1].amax())
        # As for matrices: with λ scaled by 2a, CᵀC ⪯ M/2 and, at t = 8ab, ΛGΛ/t ⪯ M/4.
        scale = 2.0 * float(seen)
        return metric * scale, 4.0 * scale * largest

    @override
    def value(self, multipliers: Tensor, square: float) -> float:
        factor, failed = torch.linalg.cholesky_ex(self.matrix(multipliers, square))
        if bool((failed != 0).any()):
            return math.inf
        rest, outside = torch.linalg.cholesky_ex(self._rest(torch.cholesky_solve(self.outputs, factor)))
        if int(outside):
            return math.inf
        logarithms = factor.diagonal(dim1=1, dim2=2).real.log().sum(1)
        determinant = 2.0 * self.share * float(self._sum(logarithms)) + 2.0 * float(rest.diagonal().log().sum())
        return -determinant - self.rank * math.log(square)

    def _rest(self, solved: Tensor) -> Tensor:
        """I − C S⁻¹ Cᵀ."""
        seen = self._seen(solved)
        return torch.eye(len(seen), dtype=seen.dtype, device=seen.device) - 0.5 * (seen + seen.t())

    @override
    def derivatives(self, multipliers: Tensor, square: float) -> tuple[Tensor, Tensor]:
        size, t, r = len(multipliers), square, float(self.rank)
        factor = torch.linalg.cholesky(self.matrix(multipliers, t))
        inverse = torch.cholesky_inverse(factor)  # B, the inverse without C
        solved = torch.cholesky_solve(self.outputs, factor)
        rest = torch.linalg.cholesky(self._rest(solved)).to(solved.dtype)
        # Y: the inverse with C is B + YYᴴ, as YYᴴ is B Cᵀ (I − C B Cᵀ)⁻¹ C B.
        driven = torch.linalg.solve_triangular(rest, solved.mT, upper=False).mT
        weighed = self.gram * multipliers  # GΛ
        rows = self.displacement - weighed / t  # K: dS/dλ_i = e_i k_i + its adjoint
        by_square = multipliers[:, None] * weighed / t**2  # dS/dt = T
        through, seen = rows @ inverse, rows @ driven  # KB, KY
        moved = inverse @ by_square  # BT
        first = by_square @ driven  # TY
        small = self._sum((driven.mH @ first).real)  # YᴴTY, all frequencies together

        def diagonal(left: Tensor, right: Tensor) -> Tensor:
            """Of left · right, where the second one is given by its adjoint's columns: Σ over all frequencies, real."""
            return self._sum((left * right.conj()).sum(2).real)

        gradient = multipliers.new_empty(size + 1)
        gradient[:size] = -2.0 * (
            self.share * self._sum(through.diagonal(dim1=1, dim2=2).real) + diagonal(seen, driven)
        )  # fmt: skip
        trace = float(self.share * self._sum(moved.diagonal(dim1=1, dim2=2).sum(1).real) + small.diagonal().sum())
        gradient[size] = -trace - r / t

        around = through @ rows.mH  # KBKᴴ
        known = driven @ driven.mH
        hessian = multipliers.new_empty(size + 1, size + 1)
        # tr(B D_i B D_j) and, of the second derivative of S, tr(X d²S); then what C adds, once and twice.
        block = through * through.mT + inverse.mT * (around + self.gram / t)
        cross = inverse * (seen @ seen.mH).mT + through.mH * (driven @ seen.mH).mT
        cross = cross + through * (seen @ driven.mH).mT + (around + self.gram / t) * known.mT
        between = torch.einsum("f,fia,fib->iab", self.counts.to(driven.dtype), driven.conj(), seen).real
        between = between + between.mT  # YᴴD_iY
        hessian[:size, :size] = (
            2.0 * self.share * self._sum(block.real)
            + 2.0 * self._sum(cross.real)
            + torch.einsum("iab,jab->ij", between, between)
        )
        # XTX, frequency by frequency: B T B, twice B T Y Yᴴ, and Y (YᴴTY) Yᴴ.
        pushed = moved @ inverse
        once = inverse @ first
        mixed = self.share * self._sum((rows @ pushed).diagonal(dim1=1, dim2=2).real)
        mixed = mixed + diagonal(rows @ once, driven) + diagonal(seen, once)
        mixed = mixed + diagonal(seen @ small.to(seen.dtype), driven)
        own = self.share * self._sum((weighed * inverse.mT).sum(2).real) + diagonal(weighed @ driven, driven)
        hessian[:size, size] = hessian[size, :size] = 2.0 * mixed - 2.0 * own / t**2
        energy = self.share * self._sum((moved * moved.mT).sum((1, 2)).real) + 2.0 * self._sum(
            (first.conj() * once).sum((1, 2)).real
        )
        hessian[size, size] = float(energy + small.square().sum()) + 2.0 * trace / t + r / t**2
        return gradient, hessian

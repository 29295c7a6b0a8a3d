"""Verification of single inputs for positive concave layers, by the hull of their equilibria and by the slopes on it.

z*(p) increases with the offset p, so that offsets in [p_l, p_u] have equilibria in [z*(p_l), z*(p_u)], both ends attained. And
its derivative M(p) = (I − DW)⁻¹D decreases, so that differences of equilibria are M̃ times differences of offsets, with
M(p_u) ≤ M̃ ≤ M(p_l) in every entry (Gabor, Piotrowski & Cavalcante 2024 show monotonicity and concavity; the bounds follow).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from wellposed.bounds.tail import normalisation_before
from wellposed.errors import CertificateError, checked_fields
from wellposed.guarantee.majorant import majorant
from wellposed.network import Network, materialise
from wellposed.network.kinds import Block
from wellposed.network.positive_hull import PositiveHull
from wellposed.numerics.outward import above, enlarged, reduced, rounding_constant
from wellposed.verification.intervals import IntervalVerifier
from wellposed.verification.region import Region

_DERIVATIVE = 16.0 * 2.0**-52  # by how much a formula of a derivative may err, relative to one


@checked_fields
class PositiveVerifier(IntervalVerifier):
    """Verifies inputs of one model with a positive concave layer.

    Args:
        model: normalisation, flattening, one dense `PcDEQ` layer and a linear head, in eval mode; a batch normalisation may come
            before the head.
        valid: range of the pixels that boxes are clipped to; None for any numbers.

    Raises:
        CertificateError: the model is of another kind.
    """

    @torch.no_grad()
    def __init__(self, model: nn.Module | Network, *, valid: tuple[float, float] | None = (0.0, 1.0)) -> None:
        network = materialise(model)
        blocks = network.exact.blocks
        layers = [(place, block.affine_layer) for place, block in enumerate(blocks) if block.affine_layer is not None]
        place, layer = layers[0] if layers else (0, None)
        part = None if layer is None else layer.injection.positive_part
        numbers = None if layer is None else layer.injection.numbers().cpu()
        matrix = None if layer is None else layer.operator().matrix()
        driven = None if numbers is None else numbers.as_matrix()
        if layer is None or part is None or matrix is None or driven is None:
            raise CertificateError("model: needs a dense positive concave layer")
        found = normalisation_before(blocks, place, driven.terms)
        self._driven = driven if found is None else driven.behind(*found)
        self._part, self._matrix, self._activation = part, matrix.detach(), layer.activation
        self._hull = PositiveHull(layer.operator(), layer.activation, layer.guarantee())
        self._after = blocks[place + 1 :]
        self._rows = _rows(blocks[place].name, self._after)
        super().__init__(network, valid=valid)
        self.steps = ("hull",)

    @override
    def _lower(self, regions: Region, shape: Sequence[int], labels: Tensor) -> Tensor:
        low = super()._lower(regions, shape, labels)
        for row, label in enumerate(labels.tolist()):
            try:
                low[row] = torch.maximum(low[row], self._by_slopes(regions[row], label))
            except CertificateError:  # the slopes may be too large for an inverse
                continue
        return low

    def _by_slopes(self, region: Region, label: int) -> Tensor:
        """Lower bounds of the margins of a class, by their values at the centre and their slopes, shape (classes,)."""
        driven, centre = self._driven, region.centre[None]
        offset = (driven(centre) + driven.bias)[0]
        if region.widths is None:
            low, high = driven.interval_of_balls(centre, region.radius[None])
        else:
            low, high = driven.interval(centre - region.widths, centre + region.widths)
        reach = above(torch.maximum(high[0] - offset, offset - low[0]))
        base = self._margins(offset, label)
        rows = self._rows[label] - self._rows
        gradient, spread, upper = self._slopes(rows, low[0], high[0])
        through = gradient @ driven.weight
        first = through.norm(dim=1) * region.radius if region.widths is None else through.abs() @ region.widths
        # Twice the rounding of sums of so many products, for those of the gradient, and as much again for the rest.
        size = gradient.abs() @ (driven.absolute(centre.abs())[0] + driven.bias_size + reach) + rows.abs() @ upper
        slack = 4.0 * rounding_constant(driven.terms + len(offset) + driven.roundings + 32) * (size + spread @ reach)
        return base - enlarged(first + spread @ reach, driven.terms + len(offset) + 4) - slack

    def _margins(self, offset: Tensor, label: int) -> Tensor:
        """Lower bounds of the margins at one value of U x + b, shape (classes,)."""
        lower, upper, proved = self._hull.enclose(*self._part.interval(offset[None], offset[None]))
        if not bool(proved.all()):
            return torch.full((len(self._rows),), -torch.inf, dtype=torch.float64, device="cpu")
        for block in self._after[:-1]:
            lower, upper = block.interval(lower, upper)
        return self._after[-1].margins(lower, upper, torch.tensor([label], device="cpu"))[0][0]

    def _slopes(self, rows: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Middle and half-width of rows·M̃·S, S the slopes of the positive part: the margins' slopes in U x + b.

        Args:
            rows: of the margins as functions of the state, shape (classes, n).
            low: least values of U x + b, shape (n,).
            high: largest values, shape (n,).

        Returns:
            Shapes (classes, n), twice, and the largest states, shape (n,).
        """
        least, most = self._part.interval(low[None], high[None])
        lower, upper, proved = self._hull.enclose(least, most)
        if not bool(proved.all()):
            raise CertificateError("model: a solve did not converge")
        units = len(low)
        driven = (
            reduced(self._matrix @ lower[0] + least[0], units + 2),
            enlarged(self._matrix @ upper[0] + most[0], units + 2),
        )
        steepest, flattest = (self._activation.derivative(value) for value in driven)
        steepest, flattest = steepest + _DERIVATIVE, (flattest - _DERIVATIVE).clamp_min(0.0)
        largest = enlarged(majorant(steepest[:, None] * self._matrix).sensitivity * steepest, 3)
        smallest = _least(flattest, self._matrix)
        middle, width = 0.5 * (largest + smallest), enlarged(0.5 * (largest - smallest).clamp_min(0.0), 1)
        through, blur = rows @ middle, enlarged(rows.abs() @ width, units + 1)
        first, last = self._part.slope(low), self._part.slope(high)
        own, own_blur = 0.5 * (first + last), enlarged(0.5 * (last - first), 1) + _DERIVATIVE
        return through * own, enlarged((through.abs() + blur) * own_blur + blur * own, 4), upper[0]


def _rows(name: str, after: Sequence[Block]) -> Tensor:
    """The linear part of what comes after a layer, shape (outputs, features).

    Raises:
        CertificateError: something else than a linear layer, at most behind maps entry by entry.
    """
    head = after[-1].linear_map if after else None
    if head is None:
        raise CertificateError(f"{name}: needs one linear layer after it, at most behind a batch normalisation")
    rows = head[0]
    for block in after[:-1]:
        scale = block.entry_scale
        if scale is None and not block.moves:
            raise CertificateError(f"{name}: needs one linear layer after it, at most behind a batch normalisation")
        rows = rows if scale is None else rows * scale
    return rows


def _least(slopes: Tensor, matrix: Tensor) -> Tensor:
    """A proved lower bound of (I − DW)⁻¹D in every entry: any X with (I − DW)X ≤ D, as the inverse is nonnegative."""
    size = len(slopes)
    eye, right, inner = torch.eye(size, dtype=torch.float64, device="cpu"), torch.diag(slopes), slopes[:, None] * matrix
    found = torch.linalg.solve_ex(
        eye - inner, torch.cat([right, torch.ones(size, 1, dtype=torch.float64, device="cpu")], 1)
    )[0]
    # A little of a positive vector less, so that rounding cannot spoil the inequality.
    candidate = found[:, :-1] - 1e-12 * float(slopes.amax()) * found[:, -1:]
    rounding = 2.0 * rounding_constant(size + 8) * (candidate.abs() + inner @ candidate.abs())
    proved = bool((candidate - inner @ candidate + rounding <= right).all())
    return candidate.clamp_min(0.0) if proved else right

"""Lipschitz constants in the ℓ∞ and ℓ1 norms by ellipsoids around the unit ball, in the best diagonal metric.

‖Δx‖_∞ ≤ 1 implies Σ d_i Δx_i² ≤ Σ d_i, and the best diagonal metric for the input map U·diag(d)^−½ bounds what follows; d moves
towards where the bound is least. The unit ball of ℓ1 is met by its corners, see `column_metric`. As everywhere, the searches only
propose; see `diagonal_metric` for the proof.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from wellposed.certificates.affine_network import AffineNetwork, affine_network
from wellposed.certificates.column_metric import ColumnBlock
from wellposed.certificates.diagonal_metric import AffineBlock
from wellposed.certificates.ending import find
from wellposed.certificates.joint import Joint, difference
from wellposed.certificates.lipschitz import blocks_of
from wellposed.errors import CertificateError

DESCRIBED = "best diagonal metric; for ℓ∞ by ellipsoids around the unit ball, for ℓ1 by single inputs"
UP = 1.0 + 1e-12  # covers the rounding of sums of nonnegative products in float64
_ROUNDS = 6  # of the weights d


@torch.no_grad()
def by_ellipsoids(model: nn.Module, norm: str) -> Joint:
    """Constants of the outputs and of class margins, with the metrics that prove them.

    The first rows of multipliers are those of single outputs for ``"inf"``, whose largest constant is that of all, and one row
    for all outputs for ``"1"``; then come class pairs.

    Args:
        model: see `affine_network`; with any activation of slopes in [0, 1].
        norm: ``"inf"`` or ``"1"``.

    Raises:
        CertificateError: the model is of another kind, or no metric was found.
    """
    network, ending = affine_network(model, relu_only=False), find(blocks_of(model))
    assert ending is not None
    place, name, _, head = ending
    output = network.output
    classes = len(output) if head is not None else 1
    constant = _Ellipsoid(network, norm)
    singles = [constant(rows) for rows in (output.split(1) if norm == "inf" else [output])]
    largest = max((found for found in singles if found is not None), key=lambda found: found.value, default=None)
    zero = [norm == "inf" and not bool(rows.any()) for rows in output.split(1)]
    if largest is None or any(found is None and not zero[k] for k, found in enumerate(singles)):
        raise CertificateError("model: no diagonal metric was found")
    # What proves a constant for some rows proves it for zeros.
    proved = [largest if found is None else found for found in singles]
    # Of two outputs together: |Δ(y_i − y_j)| ≤ |Δy_i| + |Δy_j| ≤ √2‖Δy‖₂.
    fallback = replace(largest, value=largest.value * (2.0 if norm == "inf" else math.sqrt(2.0)) * UP)
    pairs, places = None, list(itertools.combinations(range(classes), 2))
    if places:
        pairs = torch.zeros(classes, classes, dtype=torch.float64)
    for i, j in places:
        found = constant(difference(output, i, j)) or fallback
        pairs[i, j] = pairs[j, i] = found.value * UP  # type: ignore[index]
        proved.append(found)
    shares = torch.stack([found.shares for found in proved]) if norm == "inf" else None
    # ‖Δy‖₁ ≤ √k‖Δy‖₂.
    value = largest.value * (math.sqrt(len(output)) if norm == "1" else 1.0) * UP
    return Joint(name, place, value, torch.stack([found.multipliers for found in proved]), pairs, shares)


@dataclass(frozen=True)
class _Bound:
    """A proved constant.

    Attributes:
        value: an upper bound of the Euclidean norm of rows·Δz over ‖Δx‖ ≤ 1 in the norm.
        multipliers: λ, shape (n,).
        shares: d, shape (inputs,).
    """

    value: float
    multipliers: Tensor
    shares: Tensor


class _Ellipsoid:
    """Constants of rows of the state, from the norm's unit ball."""

    def __init__(self, network: AffineNetwork, norm: str) -> None:
        metric = network.layer.guarantee().diagonal_metric()
        self.metric = torch.ones(len(network.matrix), dtype=torch.float64) if metric is None else metric.double().cpu()
        self.network, self.norm = network, norm
        self.plain = AffineBlock(network.matrix, network.weight, self.metric)
        self.columns = ColumnBlock(network.matrix, network.weight, self.metric)

    def __call__(self, rows: Tensor) -> _Bound | None:
        """The best bound that was found and proved."""
        start = self.columns.bound(rows) if self.norm == "1" else self.plain.bound(rows)
        if start is None:
            return None
        weight = self.network.weight
        multipliers, shares = start.multipliers, torch.ones(weight.shape[1], dtype=torch.float64)
        if self.norm == "1":
            return _Bound(start.value, multipliers, shares)
        best = _Bound(start.value * math.sqrt(weight.shape[1]) * UP, multipliers, shares)
        square = start.value**2
        for _ in range(_ROUNDS):
            shares = self._moved(rows, multipliers, square, shares)
            scaled = weight * shares.rsqrt()
            found = AffineBlock(self.network.matrix, scaled, self.metric).bound(rows, multipliers)
            if found is None:
                break
            multipliers, square = found.multipliers, found.value**2
            # Scaling U rounds its entries once more; sums over d round too.
            value = found.value * math.sqrt(float(shares.sum())) * (1.0 + 1e-11)
            improved = best.value - value
            if improved > 0.0:
                best = _Bound(value, multipliers, shares)
            if improved < 1e-2 * best.value:
                break
        return best

    def _moved(self, rows: Tensor, multipliers: Tensor, square: float, shares: Tensor) -> Tensor:
        """d·(mean of x_i²)^¼ at the optimum, which all have one mean where d is best."""
        weight, matrix = self.network.weight, self.network.matrix
        half = multipliers[:, None] * (torch.eye(len(matrix), dtype=torch.float64) - matrix)
        driven = multipliers[:, None] * weight
        test = half + half.t() - rows.t() @ rows - (driven / shares) @ driven.t() / square
        values, vectors = torch.linalg.eigh(0.5 * (test + test.t()))
        floor = 1e-7 * float(values[-1])
        state = vectors / values.clamp_min(floor).sqrt()
        squares = ((driven.t() @ state) / shares[:, None]).square().sum(1)
        found = shares * (squares / squares.mean()).clamp(1e-4, 1e4) ** 0.25
        return (found / found.mean()).clamp_min(1e-4)

"""Constants in the ℓ∞ and ℓ1 norms, component by component, with the vectors that prove them.

Every block has a nonnegative matrix K with |Δy| ≤ K|Δx|; for NEMON that is A⁻¹|U| with A = I − M(W) (Jafarpour et al. 2021,
sharpened), for positive concave layers the exact (I − DW)⁻¹D|U|. Only products with vectors are needed: forwards from the vector
of ones for ℓ∞, backwards from rows of the last block, whose signs count in margins, for ℓ1. A being an M-matrix, y with
Ay ≥ s ≥ 0 is above A⁻¹s.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wellposed.bounds.joint import difference
from wellposed.bounds.tail import Chain
from wellposed.errors import CertificateError
from wellposed.guarantee.componentwise import Componentwise
from wellposed.guarantee.positive import PositiveConcave
from wellposed.layers.equilibrium import Equilibrium
from wellposed.layers.normalize import Normalize
from wellposed.layers.orthogonal_linear import OrthogonalLinear
from wellposed.layers.plain import is_plain, moves_only
from wellposed.network.pointwise import Elementwise, Reshape, Shift
from wellposed.numerics.norm import Norm
from wellposed.numerics.outward import rounding_constant
from wellposed.operators.dense import Dense

_ELEMENTWISE = (nn.Flatten, nn.Identity, nn.ReLU, nn.Tanh, nn.Sigmoid, nn.Hardtanh, nn.Dropout, Shift, Reshape)
_TINY = 1e-300  # more than underflow can lose
UP = 1.0 + 1e-12  # covers the rounding of sums of nonnegative products in float64


@dataclass(frozen=True, eq=False)
class Components:
    """Proved constants in one norm, of inputs and outputs alike.

    Attributes:
        value: of all outputs.
        pairs: of the margins y_i − y_j, shape (classes, classes), or None where no linear map ends the chain.
        vectors: for every layer NAME ``"NAME/m_matrix"``, v > 0 with Av > 0, and ``"NAME/moved"``, bounds of how far its state
            moves, shape (n,), or for ℓ1 of how far the outputs move with the offset of its state, shape (1 + margins, n).
    """

    value: float
    pairs: Tensor | None
    vectors: dict[str, Tensor]


@torch.no_grad()
def components(chain: Chain, norm: Norm) -> Components:
    """Constants of a chain in the norm ``"inf"`` or ``"1"``.

    Raises:
        CertificateError: nothing is known by components of one of the blocks.
    """
    active = [not _moves_by_component(block) for _, block in chain]
    if not any(active):
        raise CertificateError("model: no block with weights")
    place = len(active) - 1 - active[::-1].index(True)
    for start, (_, block) in enumerate(chain[:place]):
        if is_plain(block, Normalize):
            block.spread(len(block.std), [later for _, later in chain[start + 1 : active.index(True, start + 1)]])
    parts = [_part(name, block) for (name, block), works in zip(chain[: place + 1], active, strict=False) if works]
    last = parts[-1]
    rows = last.rows
    if rows is None:
        raise CertificateError(f"{last.name}: nothing is known by components of what ends the chain")
    # What an activation makes of two outputs is not bounded by their difference.
    trailing = [block for _, block in chain[place + 1 :]]
    linear = last.has_rows and all(moves_only(block) or isinstance(block, nn.Dropout) for block in trailing)
    places = list(itertools.combinations(range(len(rows)), 2)) if linear else []
    margins = torch.cat([rows[:0], *(difference(rows, i, j) for i, j in places)]).abs()
    if norm == "inf":
        vectors, reached = _ahead(parts)
        seen = torch.cat([rows.abs(), margins])
        bounds = seen @ reached * UP + _TINY * seen.any(1).double()
        whole, apart = float(bounds[: len(rows)].amax()), bounds[len(rows) :]
    else:
        vectors, back = _back(parts, torch.cat([rows.abs().sum(0)[None], margins]) * UP)
        bounds = back.amax(1) * UP
        whole, apart = float(bounds[0]), bounds[1:]
    pairs: Tensor | None = None
    if linear and len(rows) > 1:
        pairs = torch.zeros(len(rows), len(rows), dtype=torch.float64)
        for (i, j), bound in zip(places, apart.tolist(), strict=True):
            pairs[i, j] = pairs[j, i] = bound * UP
    return Components(whole * UP, pairs, vectors)


def _moves_by_component(block: nn.Module) -> bool:
    """Whether no entry of a block's output moves more than the entry of the input that it comes from."""
    if isinstance(block, Elementwise):
        return block.lipschitz() <= 1.0
    return any(is_plain(block, kind) for kind in _ELEMENTWISE)


class _Sensitivity:
    """A⁻¹ from above, A, and the scale D of one layer."""

    def __init__(self, matrix: Tensor, guarantee: Componentwise) -> None:
        proof, positive = guarantee.majorant, isinstance(guarantee, PositiveConcave)
        self.weights, self._inverse = proof.weights, proof.sensitivity
        ones = torch.ones(len(matrix), dtype=torch.float64)
        self.scale = guarantee.slopes if isinstance(guarantee, PositiveConcave) else ones
        off = self.scale[:, None] * matrix if positive else matrix.clone().fill_diagonal_(0.0).abs()
        diagonal = torch.diag(ones if positive else 1.0 - matrix.diagonal())
        self._comparison, self._sizes = diagonal - off, diagonal + off

    def above(self, wanted: Tensor, *, backwards: bool) -> Tensor:
        """A vector y ≥ 0 with Ay ≥ wanted, or Aᵀy, rounding included, near the least one."""
        inverse, comparison, sizes = (
            part.t() if backwards else part for part in (self._inverse, self._comparison, self._sizes)
        )
        rounding = 32.0 * rounding_constant(3 * len(inverse) + 1024)
        slack = 1e-12
        while slack < 1.0:
            larger = torch.mv(inverse, wanted * (1.0 + slack) + slack * wanted.amax())
            if bool((torch.mv(comparison, larger) - rounding * torch.mv(sizes, larger) >= wanted).all()):
                return larger
            slack *= 4.0
        raise CertificateError("W: the sensitivity could not be bounded in these numbers; use float64")


@dataclass(frozen=True, eq=False)
class _Part:
    """One block: |weight| of a linear map or input map, the sensitivity of a layer, the rows that it would end a chain with."""

    name: str
    weight: Tensor | None
    layer: _Sensitivity | None
    rows: Tensor | None
    has_rows: bool
    normalize: Normalize | None = None


def _part(name: str, block: nn.Module) -> _Part:
    """Raises where nothing is known of a block."""
    if is_plain(block, nn.Linear) or is_plain(block, OrthogonalLinear):
        weight = block.weight.detach().double().cpu()
        return _Part(name, weight.abs(), None, weight, True)
    if is_plain(block, Normalize):
        return _Part(name, None, None, None, False, block)
    if isinstance(block, Equilibrium) and block.direct is None:
        operator, guarantee = block.materialise()
        driven = block.injection.numbers().as_matrix()  # slopes of a positive part lie in [0, 1]
        if isinstance(guarantee, Componentwise) and isinstance(operator, Dense) and driven is not None:
            weight = driven.cpu().weight
            matrix = operator.dense().detach().double().cpu()
            own = block.output is not None
            rows = torch.eye(len(matrix), dtype=torch.float64)
            rows = block.output.weight.detach().double().cpu() if block.output is not None else rows
            return _Part(name, weight.abs() * UP, _Sensitivity(matrix, guarantee), rows, own)
    raise CertificateError(f"{name}: no componentwise bound is known for a {type(block).__name__}")


def _ahead(parts: list[_Part]) -> tuple[dict[str, Tensor], Tensor]:
    """How far components move at most before the rows of the last part, for inputs that move by one each."""
    vectors: dict[str, Tensor] = {}
    reached = torch.ones(_inputs(parts), dtype=torch.float64)
    for place, part in enumerate(parts):
        if part.normalize is not None:
            reached = reached / part.normalize.spread(_inputs(parts[place:]))[1] * UP
            continue
        if part.layer is not None:
            assert part.weight is not None
            driven = part.layer.scale * (part.weight @ reached) * UP + _TINY
            reached = part.layer.above(driven, backwards=False)
            vectors.update({f"{part.name}/m_matrix": part.layer.weights, f"{part.name}/moved": reached})
        if part.has_rows and part is not parts[-1]:
            assert part.rows is not None
            reached = part.rows.abs() @ reached * UP + _TINY
    return vectors, reached


def _back(parts: list[_Part], back: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """``back·K`` for the K of the blocks before the rows of the last part."""
    vectors: dict[str, Tensor] = {}
    for place, part in reversed(list(enumerate(parts))):
        if part.normalize is not None:
            back = back / part.normalize.spread(_inputs(parts[place:]))[1] * UP
            continue
        if part.has_rows and part is not parts[-1]:
            assert part.rows is not None
            back = back @ part.rows.abs() * UP + _TINY * back.any(1, keepdim=True).double()
        if part.layer is not None:
            assert part.weight is not None
            back = torch.stack([part.layer.above(row, backwards=True) for row in back])
            vectors.update({f"{part.name}/m_matrix": part.layer.weights, f"{part.name}/moved": back})
            back = (back * part.layer.scale) @ part.weight * UP + _TINY * back.any(1, keepdim=True).double()
    return vectors, back


def _inputs(parts: list[_Part]) -> int:
    """How many inputs the first map of some blocks takes."""
    for part in parts:
        if part.weight is not None:
            return part.weight.shape[1]
    raise CertificateError("model: a normalisation is no map")

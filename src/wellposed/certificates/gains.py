"""Lipschitz constants in the ℓ∞ and ℓ1 norms, for all outputs and for class margins.

Two ways, of which the tighter counts. Componentwise: every block has a nonnegative matrix K with |Δy| ≤ K|Δx|, and these
multiply; for NEMON that is G|U| with G = (I − M(W))⁻¹ (Jafarpour et al. 2021, sharpened), for positive concave layers the exact
M|U|. By ellipsoids: ‖Δx‖_∞ ≤ 1 implies Σ d_i Δx_i² ≤ Σ d_i, and the best diagonal metric for the input map U·diag(d)^−½ bounds
what follows; d moves towards where the bound is least. Euclidean constants do for ℓ1, as ‖Δx‖₂ ≤ ‖Δx‖₁.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wellposed.certificates.affine_network import AffineNetwork, affine_network
from wellposed.certificates.diagonal_metric import AffineBlock
from wellposed.certificates.joint import difference
from wellposed.certificates.lipschitz import blocks_of
from wellposed.errors import CertificateError
from wellposed.guarantee.componentwise import Componentwise
from wellposed.layers.blocks import is_plain, moves_only
from wellposed.layers.equilibrium import Equilibrium
from wellposed.layers.implicit_layer import ImplicitLayer, runs_as_written
from wellposed.layers.normalize import Normalize
from wellposed.layers.orthogonal_linear import OrthogonalLinear
from wellposed.layers.pcdeq import PositiveLinear
from wellposed.layers.prescribed_bound import ScaledLinear
from wellposed.operators.dense import Dense

_ROUNDS = 6  # of the weights d
_ELEMENTWISE = (nn.Flatten, nn.Identity, nn.ReLU, nn.Tanh, nn.Sigmoid, nn.Hardtanh, nn.Dropout)
_UP = 1.0 + 1e-12  # covers the rounding of sums of nonnegative products in float64


@dataclass(frozen=True)
class Gains:
    """Constants in one norm, of inputs and outputs alike.

    Attributes:
        value: of all outputs.
        pairs: of the margins y_i − y_j, shape (classes, classes), or None for a single output.
        reason: how ``value`` was obtained.
    """

    value: float
    pairs: Tensor | None
    reason: str


@torch.no_grad()
def gains(model: nn.Module, norm: str) -> Gains:
    """The tightest constants that are known in a norm, ``"inf"`` or ``"1"``.

    Raises:
        CertificateError: neither way applies to the model.
    """
    found, reasons = [], []
    try:
        found.append(_by_components(model, norm))
    except CertificateError as error:
        reasons.append(str(error))
    try:
        found.append(_by_ellipsoids(affine_network(model, relu_only=False), norm))
    except CertificateError as error:
        reasons.append(str(error))
    if not found:
        raise CertificateError(f"norm={norm!r}: {'; '.join(reasons)}")
    best = min(found, key=lambda gain: gain.value)
    pairs = [gain.pairs for gain in found if gain.pairs is not None]
    return Gains(best.value, torch.stack(pairs).amin(0) if pairs else None, best.reason)


def _by_components(model: nn.Module, norm: str) -> Gains:
    """Products of nonnegative matrices, from the last block, whose signs count in margins, backwards."""
    blocks = blocks_of(model)
    for name, block in blocks:
        if isinstance(block, nn.Dropout) and block.training:
            raise CertificateError(f"{name}: dropout is active; call model.eval() first")
    passive = [any(is_plain(block, kind) for kind in _ELEMENTWISE) for _, block in blocks]
    chain = [pair for pair, skipped in zip(blocks, passive, strict=True) if not skipped]
    # What an activation makes of two outputs is not bounded by their difference.
    trailing = [block for _, block in itertools.takewhile(lambda pair: pair not in chain, reversed(blocks))]
    linear_end = all(moves_only(block) or isinstance(block, nn.Dropout) for block in trailing)
    if not chain:
        raise CertificateError("model: no block with weights")
    rows, last = _last(chain)
    classes = len(rows)
    margins = torch.stack([difference(rows, i, j)[0] for i in range(classes) for j in range(classes)])
    gain = torch.cat([rows.abs(), margins.abs()]) * _UP
    for name, block in reversed(last):
        gain = _through(name, block, gain)
    own, apart = gain[:classes], gain[classes:]
    if norm == "inf":
        value, each = float(own.sum(1).amax()), apart.sum(1)
    else:
        value, each = float(own.sum(0).amax()), apart.amax(1)
    pairs = (each.reshape(classes, classes) * _UP) if classes > 1 and linear_end else None
    if pairs is not None:
        pairs.fill_diagonal_(0.0)
    return Gains(value * _UP, pairs, "componentwise sensitivity, block by block")


def _last(chain: list[tuple[str, nn.Module]]) -> tuple[Tensor, list[tuple[str, nn.Module]]]:
    """The matrix at the end, with its signs, and the blocks before it."""
    name, block = chain[-1]
    if is_plain(block, nn.Linear) or is_plain(block, OrthogonalLinear):
        return block.weight.detach().double().cpu(), chain[:-1]
    if isinstance(block, ImplicitLayer) and block.output is not None and block.direct is None:
        return block.output.weight.detach().double().cpu(), [*chain[:-1], (name, block)]
    if isinstance(block, Equilibrium) and block.output is None:
        return torch.eye(block.state_features, dtype=torch.float64), chain
    raise CertificateError(f"{name}: no componentwise bound is known for a {type(block).__name__}")


def _through(name: str, block: nn.Module, gain: Tensor) -> Tensor:
    """``gain·K`` for the K of a block, rounded up."""
    if is_plain(block, nn.Linear) or is_plain(block, OrthogonalLinear):
        return gain @ block.weight.detach().double().cpu().abs() * _UP
    if is_plain(block, Normalize):
        repeated = gain.shape[1] // block.std.numel()
        return gain / block.std.double().cpu().reshape(-1).repeat_interleave(repeated) * _UP
    if isinstance(block, Equilibrium) and runs_as_written(block):
        operator, guarantee = block.materialise()
        injection = block.injection
        plain = any(is_plain(injection, kind) for kind in (nn.Linear, ScaledLinear))
        if (
            isinstance(guarantee, Componentwise)
            and isinstance(operator, Dense)
            and (plain or isinstance(injection, PositiveLinear))
        ):
            weight = injection.weight if plain else injection.folded()[0]
            return gain @ guarantee.sensitivity.cpu() @ weight.detach().double().cpu().abs() * _UP
    raise CertificateError(f"{name}: no componentwise bound is known for a {type(block).__name__}")


def _by_ellipsoids(network: AffineNetwork, norm: str) -> Gains:
    """Metrics for single outputs and margins."""
    output, inputs = network.output, network.weight.shape[1]
    classes = len(output)
    constant = _Ellipsoid(network, norm)
    singles = [constant(output[i : i + 1]) for i in range(classes)] if norm == "inf" else []
    if norm == "inf":
        value = max(singles)
    else:  # ‖Δy‖₁ ≤ √k‖Δy‖₂, and at most the sum over the outputs
        value = min(math.sqrt(classes) * constant(output), sum(constant(output[i : i + 1]) for i in range(classes)))
    pairs = None
    if classes > 1:
        pairs = torch.zeros(classes, classes, dtype=torch.float64)
        for i in range(classes):
            for j in range(i):
                pairs[i, j] = pairs[j, i] = constant(difference(output, i, j)) * _UP
    if not math.isfinite(value):
        raise CertificateError("model: no diagonal metric was found")
    return Gains(value * _UP, pairs, f"best diagonal metric, ellipsoids around the ball in {inputs} dimensions")


class _Ellipsoid:
    """Constants of rows of the state, from the norm's unit ball."""

    def __init__(self, network: AffineNetwork, norm: str) -> None:
        metric = network.layer.guarantee().diagonal_metric()
        self.metric = torch.ones(len(network.matrix), dtype=torch.float64) if metric is None else metric.double().cpu()
        self.network, self.norm = network, norm
        self.plain = AffineBlock(network.matrix, network.weight, self.metric)

    def __call__(self, rows: Tensor) -> float:
        """An upper bound of the Euclidean norm of rows·Δz over ‖Δx‖ ≤ 1 in the norm; infinite if none is proved."""
        start = self.plain.bound(rows)
        if start is None:
            return math.inf
        if self.norm == "1":
            return start.value
        weight = self.network.weight
        best = start.value * math.sqrt(weight.shape[1])
        multipliers, shares = start.multipliers, torch.ones(weight.shape[1], dtype=torch.float64)
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
            improved, best = best - value, min(best, value)
            if improved < 1e-2 * best:
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

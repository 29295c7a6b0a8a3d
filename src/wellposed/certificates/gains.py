"""Lipschitz constants in the ℓ∞ and ℓ1 norms, for all outputs and for class margins.

Two ways, of which the tighter counts. Componentwise: every block has a nonnegative matrix K with |Δy| ≤ K|Δx|, and these
multiply; for NEMON that is G|U| with G = (I − M(W))⁻¹ (Jafarpour et al. 2021, sharpened), for positive concave layers the exact
M|U|. And in the best diagonal metric, see `joint_norms`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wellposed.certificates.joint import Joint, difference
from wellposed.certificates.joint_norms import DESCRIBED, UP, joint_bound_in
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

_ELEMENTWISE = (nn.Flatten, nn.Identity, nn.ReLU, nn.Tanh, nn.Sigmoid, nn.Hardtanh, nn.Dropout)


@dataclass(frozen=True)
class Gains:
    """Constants in one norm, of inputs and outputs alike.

    Attributes:
        value: of all outputs.
        pairs: of the margins y_i − y_j, shape (classes, classes), or None for a single output.
        reason: how ``value`` was obtained.
        joint: what diagonal metrics prove, where they apply, whether or not that is the tightest.
    """

    value: float
    pairs: Tensor | None
    reason: str
    joint: Joint | None = None


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
        joint = joint_bound_in(model, norm)
        found.append(Gains(joint.value, joint.pairs, DESCRIBED, joint))
    except CertificateError as error:
        reasons.append(str(error))
    if not found:
        raise CertificateError(f"norm={norm!r}: {'; '.join(reasons)}")
    best = min(found, key=lambda gain: gain.value)
    pairs = [gain.pairs for gain in found if gain.pairs is not None]
    return Gains(best.value, torch.stack(pairs).amin(0) if pairs else None, best.reason, found[-1].joint)


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
    gain = torch.cat([rows.abs(), margins.abs()]) * UP
    for name, block in reversed(last):
        gain = _through(name, block, gain)
    own, apart = gain[:classes], gain[classes:]
    if norm == "inf":
        value, each = float(own.sum(1).amax()), apart.sum(1)
    else:
        value, each = float(own.sum(0).amax()), apart.amax(1)
    pairs = (each.reshape(classes, classes) * UP) if classes > 1 and linear_end else None
    if pairs is not None:
        pairs.fill_diagonal_(0.0)
    return Gains(value * UP, pairs, "componentwise sensitivity, block by block")


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
        return gain @ block.weight.detach().double().cpu().abs() * UP
    if is_plain(block, Normalize):
        return gain / block.spread(gain.shape[1])[1] * UP
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
            return gain @ guarantee.sensitivity.cpu() @ weight.detach().double().cpu().abs() * UP
    raise CertificateError(f"{name}: no componentwise bound is known for a {type(block).__name__}")

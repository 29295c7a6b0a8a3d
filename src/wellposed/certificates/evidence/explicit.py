"""Explicit layers: their matrices as they run, and the norms that bound their constants."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wellposed.certificates.evidence.norms import checkable_norm
from wellposed.layers import SLL, Residual, Sandwich
from wellposed.layers.explicit import ExplicitBlock
from wellposed.numerics.verified import spectral_norm_upper_bound

EXPLICIT = (Sandwich, SLL, Residual)
_ROOM = 1.0 + 1e-12  # the checker counts rounding more coarsely


@torch.no_grad()
def describe_explicit(block: ExplicitBlock, name: str, value: float) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Entry and tensors of one layer, whose Euclidean constant is given."""
    entry: dict[str, Any] = {"kind": "explicit"}
    inner, outer, scale = (part.detach().cpu().contiguous() for part in block.maps())
    if isinstance(block, Sandwich):
        root = torch.exp(block.log_scale.detach().double().cpu())[:, None]
        both = torch.cat([inner.double() * root, outer.double().t() / root], 1)
        entry["value"] = 0.5 * checkable_norm(both, (2.0 * value) ** 0.5) ** 2 * _ROOM
        return entry, {f"{name}/inner": inner, f"{name}/outer": outer}
    if not isinstance(block, SLL):
        first, second = (_norm(part) for part in (inner, outer))
        return {**entry, "norms": [first, second], "value": max(value, 1.0 + first * second) * _ROOM}, {}
    wide = inner.double()
    proved = _norm(scale.double().sqrt()[:, None] * wide) * _ROOM
    rounding = 1e-15 * float(outer.double().norm())
    missed = _norm(outer.double() + wide.t() * scale.double()) + rounding + 1e-300
    size = _norm(inner)
    entry.update(norms=[proved, missed, size], value=max(value, max(1.0, proved**2 - 1.0) + missed * size) * _ROOM)
    return entry, {f"{name}/outer": outer, f"{name}/scale": scale}


def _norm(matrix: Tensor) -> float:
    return checkable_norm(matrix, spectral_norm_upper_bound(matrix))

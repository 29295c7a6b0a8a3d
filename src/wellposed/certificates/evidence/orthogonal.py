"""Orthogonal maps and the cells that are made of them: the matrices as they run, and by how much they exceed norm one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wellposed.certificates.evidence.norms import checkable_norm
from wellposed.layers.conv_orthogonal import ConvOrthogonalDEQ
from wellposed.layers.graph import ImplicitGraph
from wellposed.layers.orthogonal import OrthogonalDEQ
from wellposed.layers.orthogonal_conv import OrthogonalConv2d
from wellposed.layers.orthogonal_linear import OrthogonalLinear
from wellposed.numerics.verified import spectral_norm_upper_bound

Described = tuple[dict[str, Any], dict[str, Tensor]]


@torch.no_grad()
def describe_map(block: OrthogonalLinear | OrthogonalConv2d, name: str, value: float | None) -> Described:
    """Entry and tensors of one map, whose Euclidean constant is given, or None in other norms."""
    entry, tensors = _common([block], [""], 0.0 if value is None else value - 1.0)
    entry.update(kind="orthogonal", value=None if value is None else 1.0 + entry["excess"])
    return entry, {f"{name}/{key}": tensor for key, tensor in tensors.items()}


@torch.no_grad()
def describe_cell(layer: OrthogonalDEQ | ConvOrthogonalDEQ, name: str) -> Described:
    """Entry and tensors of one layer."""
    injection = layer.injection
    maps = [*layer.maps, *([] if injection is None else [injection])]
    parts = [*(f"maps.{k}." for k in range(len(layer.maps))), *([] if injection is None else ["injection."])]
    entry, tensors = _common(maps, parts, layer.norm_excess())
    angles = layer.angles if isinstance(layer, OrthogonalDEQ) else None
    entry.update(
        kind="cell", coupling=layer.coupling, depth=len(layer.maps), encodes=injection is not None,
        angles=0 if angles is None else len(angles), value=layer.constants(entry["excess"])[1] * (1.0 + 1e-11),
    )  # fmt: skip
    return entry, {f"{name}/{key}": tensor for key, tensor in tensors.items()}


@torch.no_grad()
def describe_graph_layer(layer: ImplicitGraph, name: str, value: float) -> Described:
    """Entry and tensors of one layer on graphs, of the variants that orthogonal maps make."""
    orthogonal = [layer.state_map, *([layer.injection] if layer.variant == "lipschitz" else [])]
    entry, tensors = _common(orthogonal, ["state_map.", "injection."][: len(orthogonal)], 0.0)
    weights = [part.weight.detach().cpu() for part in (layer.state_map, layer.injection)]
    norms = [checkable_norm(weight, spectral_norm_upper_bound(weight)) for weight in weights]
    own, driven = layer.scales
    bound = driven * norms[1] / (1.0 - own * norms[0] * (1.0 + 2e-12)) * (1.0 + 2e-12)
    entry.update(kind="graph", variant=layer.variant, norms=norms, value=max(value, bound))
    return entry, {f"{name}/{key}": tensor for key, tensor in tensors.items()}


def _common(maps: list[Any], parts: list[str], excess: float) -> Described:
    """What blocks of one map and of several say alike."""
    circular = isinstance(maps[0], OrthogonalConv2d)
    tensors: dict[str, Tensor] = {}
    for part, block in zip(parts, maps, strict=True):
        matrix = (block.transfer() if circular else block.weight).detach().cpu().contiguous()
        tensors[f"{part}matrix"] = matrix
        if not circular:
            excess = max(excess, checkable_norm(matrix, 1.0 + excess) - 1.0)
    # The checker bounds the rounding of products at a frequency by sums over all of its entries.
    excess = excess + (1e-10 if circular else 0.0)
    entry: dict[str, Any] = {
        "shapes": [] if circular else [[block.out_features, block.in_features] for block in maps],
        "parametrisation": "circular" if circular else maps[0].parametrisation, "excess": max(excess, 0.0) + 1e-15,
    }  # fmt: skip
    if circular:
        entry["grids"] = [list(block.out_image) for block in maps]
    return entry, tensors

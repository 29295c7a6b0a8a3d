"""Equilibria of contractive cells that are made of orthogonal maps."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from typing_extensions import override

from wellposed.layers.conv_orthogonal import ConvOrthogonalDEQ
from wellposed.layers.orthogonal import OrthogonalDEQ
from wellposed.network.description import Description
from wellposed.network.kinds.block import block_of, kind_of
from wellposed.network.kinds.implicit import ImplicitBlock

_CHECKED = 1.0 + 1e-11  # by how much a constant must be larger for the checker, which multiplies in another order


@kind_of(OrthogonalDEQ, ConvOrthogonalDEQ, inherited=True)
class CellBlock(ImplicitBlock):
    """A cell with the maps, the coupling and the numbers κ and ω that its theorem is about."""

    @override
    def describe(self, value: float | None) -> Description:
        layer: OrthogonalDEQ | ConvOrthogonalDEQ = self.module
        maps = {f"maps.{place}": part for place, part in enumerate(layer.maps)}
        if layer.injection is not None:
            maps["injection"] = layer.injection
        found = orthogonal_maps(maps, layer.norm_excess())
        options = {
            **found.options, "coupling": layer.coupling, "depth": len(layer.maps), "encodes": layer.injection is not None,
            "angles": layer.reflections,
        }  # fmt: skip
        return Description("cell", options, layer.constants(options["excess"])[1] * _CHECKED, found.tensors)


def orthogonal_maps(maps: Mapping[str, nn.Module], excess: float) -> Description:
    """What is said of the orthogonal maps of a layer, taken together: their shapes or grids, and the largest excess.

    Args:
        maps: by their names in the layer.
        excess: by how much their norms exceed one at most, proved.
    """
    found = {name: block_of(name, part).describe(1.0 + excess) for name, part in maps.items()}
    options = dict(next(iter(found.values())).options)
    for key in options.keys() & {"shapes", "grids"}:
        options[key] = [entry for part in found.values() for entry in part.options[key]]
    options["excess"] = max(part.options["excess"] for part in found.values())
    tensors = {f"{name}.{key}": tensor for name, part in found.items() for key, tensor in part.tensors.items()}
    return Description("orthogonal", options, tensors=tensors)

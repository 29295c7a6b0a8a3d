"""The end of a network: its last equilibrium layer, and the linear map after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.errors import CertificateError
from wellposed.layers.equilibrium import Equilibrium
from wellposed.network.kinds import Block


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Tail:
    """An equilibrium layer z = σ(Wz + Ux + b) and the linear map after it, to the end of the network.

    Attributes:
        place: of the layer among the blocks.
        name: of the layer and of what follows it.
        layer: the layer.
        rows: C, the weight of the map, or the identity where there is none, float64, shape (outputs, features).
        bias: c, float64, shape (outputs,).
        has_head: whether there is such a map.
        between: the blocks between the layer and the map, which move entries, or average over windows at most once.
    """

    place: int
    name: str
    layer: Equilibrium
    rows: Tensor
    bias: Tensor
    has_head: bool
    between: tuple[Block, ...] = ()

    def __repr__(self) -> str:
        return f"Tail({self.name}: {self.rows.shape[0]} outputs of {self.rows.shape[1]} features)"

    def spread(self, rows: Tensor) -> Tensor:
        """The map from the state for some rows of C, shape (outputs, state features); every entry rounds once at most."""
        shapes = _shapes(self.layer, self.between)
        for block, shape in zip(reversed(self.between), reversed(shapes[:-1]), strict=True):
            pulled = block.pull_back(rows, shape)
            assert pulled is not None  # or there would be no tail
            rows = pulled
        return rows


def tail_of(blocks: Sequence[Block]) -> Tail | None:
    """What ends a network, or None where its last layer is no affine equilibrium or something unknown follows it."""
    place = max((place for place, block in enumerate(blocks) if block.is_implicit), default=None)
    layer = None if place is None else blocks[place].affine_layer
    if place is None or layer is None or layer.direct is not None:
        return None
    if layer.output is None and layer.value_shape != layer.state_shape:
        return None
    name, rest = blocks[place].name, list(blocks[place + 1 :])
    flat = len(layer.state_shape) == 1
    if layer.output is not None:
        if not flat or not all(block.moves for block in rest):
            return None
        weight, bias = layer.output.weight, layer.output.bias
        return _tail(place, name, layer, weight.detach().double().cpu(), bias)
    heads = [index for index, block in enumerate(rest) if block.linear_map is not None]
    if not heads:
        if not flat or not all(block.moves for block in rest):  # of images the identity would be too large
            return None
        return Tail(
            place=place, name=name, layer=layer, rows=torch.eye(layer.state_features, dtype=torch.float64, device="cpu"),
            bias=torch.zeros(layer.state_features, dtype=torch.float64, device="cpu"), has_head=False,
        )  # fmt: skip
    between, after = rest[: heads[0]], rest[heads[0] + 1 :]
    named = [block.name for block in rest[: heads[0] + 1] if not block.moves]
    head = rest[heads[0]].linear_map
    assert head is not None
    if not all(block.moves for block in after) or not _fits(layer, between, head[0]):
        return None
    return _tail(place, " + ".join([name, *named]), layer, *head, between=tuple(between))


def normalisation_before(blocks: Sequence[Block], place: int, inputs: int) -> tuple[Tensor, Tensor] | None:
    """Mean and standard deviation of every entry of what a layer takes, by the one normalisation before it; None without one.

    Args:
        blocks: in order.
        place: of the layer.
        inputs: size of its flattened input.

    Raises:
        CertificateError: something else than one normalisation and reshaping comes before the layer.
    """
    rest = [index for index in range(place) if not blocks[index].only_shapes]
    found = [blocks[index].normalisation(inputs, blocks[index + 1 : place]) for index in rest]
    if len(rest) > 1 or None in found:
        raise CertificateError(
            f"{blocks[place].name}: needs nothing but one normalisation and reshaping before the layer"
        )
    return found[0] if found else None


def _tail(
    place: int, name: str, layer: Equilibrium, rows: Tensor, bias: Tensor | None, between: tuple[Block, ...] = ()
) -> Tail:
    constant = (
        torch.zeros(len(rows), dtype=torch.float64, device="cpu") if bias is None else bias.detach().double().cpu()
    )
    return Tail(place=place, name=name, layer=layer, rows=rows, bias=constant, has_head=True, between=between)


def _fits(layer: Equilibrium, between: Sequence[Block], rows: Tensor) -> bool:
    """Whether what is between a layer and rows of a map can be seen through, with one rounding of every entry at most."""
    if sum(not block.moves for block in between) > 1:
        return False
    shapes = _shapes(layer, between)
    if len(shapes[-1]) != 1 or rows.shape[1] != shapes[-1][0]:
        return False
    one = rows[:1]
    for block, shape in zip(reversed(between), reversed(shapes[:-1]), strict=True):
        pulled = block.pull_back(one, shape)
        if pulled is None:
            return False
        one = pulled
    return True


def _shapes(layer: Equilibrium, between: Sequence[Block]) -> list[tuple[int, ...]]:
    """Shapes of a state before, between and behind some blocks."""
    shapes, dtype = [tuple(layer.state_shape)], layer.operator().dtype
    for block in between:
        shapes.append(block.output_shape(shapes[-1], dtype))
    return shapes

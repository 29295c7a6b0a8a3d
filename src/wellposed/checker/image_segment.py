"""Parts of a network from before a convolution to behind an equilibrium of images, with only linear maps beside these."""

import math

import numpy as np

from . import correlation
from .circulated import KINDS
from .maps import Linear
from .node import Node
from .proofs import Array, like, require
from .windows import by_channel


class ImageSegment:
    """A convolution, an equilibrium z = m·σ(Wz + q), W = I − Ψ(C + FᵀF), averages, if any, and rows of a linear map.

    Attributes:
        start: place of the node that the first edge leaves.
        layer: place of the equilibrium.
        name: of the node that the last edge leaves.
        node: the equilibrium.
        seen: the map behind it, shape (outputs, *state); entries may be off by `FOLDED` roundings.
        kernel: of the convolution, with what each channel is multiplied with before, off in the same way.
        strides: of the convolution.
        grid: on which the circular one has it for a part, at all outputs that the mask keeps; that of the state, if possible.
        scale: what the convolution is multiplied with behind it, of a shape that broadcasts to that of a state.
    """

    def __init__(self, nodes: list[Node], maps: list[Linear], end: Node) -> None:
        path, self.name = maps[end.place], end.name
        first = nodes[path.start]
        pool = first if first.kind == "AveragePooling" else None
        self.node = first if pool is None else nodes[first.sources[0]]
        require(
            self.node.kind in KINDS and path.matrix.ndim == 2,
            "metric",
            f"no equilibrium stands before {end.name} alone",
        )
        self.layer, self.seen = self.node.place, _spread(path.matrix, self.node.shape, pool)
        driven = maps[self.node.sources[0]]
        placed = nodes[driven.start]
        convolved = nodes[placed.sources[0]] if placed.kind == "Placed" else placed
        known = convolved.kind == "Convolution" and driven.matrix.ndim == 1
        known = known and placed.shape == self.node.shape and len(convolved.numbers["b"]) == self.node.shape[0]
        require(known, "metric", f"{self.name}: no convolution stands before its equilibrium")
        self.scale = driven.matrix.reshape(self.node.shape)
        before = maps[convolved.sources[0]]
        shape, inner = nodes[convolved.sources[0]].shape, by_channel(before.matrix, nodes[convolved.sources[0]].shape)
        self.start = convolved.sources[0] if inner is None else before.start
        self.kernel = convolved.numbers["K"] * (1.0 if inner is None else inner[:, None, None])
        self._set_grid(convolved, placed, shape)

    def _set_grid(self, convolved: Node, placed: Node, image: tuple[int, ...]) -> None:
        seen, taps, state = convolved.numbers["index"], self.kernel.shape[2:], self.node.shape[1:]
        if placed is not convolved:
            index = placed.numbers["index"]
            require(index.ndim == 1, "metric", f"{self.name}: {placed.name} mixes pixels and channels")
            seen = np.concatenate([seen, np.full((1, seen.shape[1]), math.prod(image[1:]))])[index]
        mask = self.node.numbers["mask"]
        needed = np.asarray(np.broadcast_to(mask != 0.0, self.node.shape).any(0))
        found = correlation.circular(seen, image[1:], taps, needed, (correlation.same,))
        if found is None:
            found = correlation.circular(seen, image[1:], taps, needed, (correlation.larger,))
        require(found is not None, "metric", f"{self.name}: {convolved.name} is no part of a circular convolution")
        assert found is not None
        (self.grid, self.strides), self.circular = found, found[0] == state

    def rows(self, row: int | tuple[int, int] | slice) -> tuple[Array, Array]:
        """The rows of the last map that are looked at, and the sizes relative to which they round."""
        first, second = row if isinstance(row, tuple) else (row, None)
        seen, size = (part[first].reshape(-1, *self.node.shape) for part in (self.seen, np.abs(self.seen)))
        if second is not None:
            seen, size = seen - self.seen[second], size + np.abs(self.seen[second])
        return seen, size


def _spread(rows: Array, state: tuple[int, ...], pool: Node | None) -> Array:
    """Rows of a map of averages, if any, as a map of a state."""
    if pool is None:
        return rows.reshape(-1, *state)
    index = pool.numbers["index"]
    found, means = (
        like(rows, np.zeros((len(rows), state[0], math.prod(state[1:])))),
        rows.reshape(len(rows), state[0], -1, 1),
    )
    found[:, :, index] = means / index.shape[1]  # its windows do not overlap
    return found.reshape(-1, *state)

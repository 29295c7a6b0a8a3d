"""One evaluation of a map with its graph, which a forward pass can leave for the backward pass that follows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Evaluation:
    """The value of a map at a point, and its graph from leaves of its own.

    The graph is given away once, so that it is not kept any longer than the pass that needs it; after that it is formed anew.

    Args:
        function: takes the point, then the tensors.
        point: the state.
        tensors: further arguments.
        needed: which of them need a gradient.
    """

    def __init__(
        self, function: Callable[..., Tensor], point: Tensor, tensors: Sequence[Tensor], needed: Sequence[bool]
    ) -> None:
        self._function, self._tensors, self._needed = function, tensors, needed
        self._point = point.detach()
        self._graph: tuple[Tensor, list[Tensor], Tensor] | None = None

    def image(self) -> Tensor:
        """The value, without its graph."""
        if self._graph is None:
            self._graph = self._formed()
        return self._graph[2].detach()

    def taken(self) -> tuple[Tensor, list[Tensor], Tensor]:
        """The point, the tensors as leaves, and the value with its graph from these."""
        graph, self._graph = self._graph, None
        return self._formed() if graph is None else graph

    def _formed(self) -> tuple[Tensor, list[Tensor], Tensor]:
        with torch.enable_grad():
            point = self._point.detach().requires_grad_()
            leaves = [
                tensor.detach().requires_grad_() if need else tensor.detach()
                for tensor, need in zip(self._tensors, self._needed, strict=True)
            ]
            return point, leaves, self._function(point, *leaves)

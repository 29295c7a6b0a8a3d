"""The numbers of an equilibrium network that computes what another network computes, and who finds them.

Layers start from such numbers. What finds them, `wellposed.embed`, knows networks, which are made of layers; it is named here
when it is imported, as all of the library is.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from wellposed.activations import PartlyLinear, ReLU


@dataclass(frozen=True, eq=False, kw_only=True)
class Embedding:
    """An equilibrium network that computes what another network computes; float64.

    Attributes:
        matrix: W, shape (n, n).
        input_weight: U, shape (n, inputs).
        bias: b, shape (n,).
        output_weight: W_o, shape (outputs, n).
        output_bias: b_o, shape (outputs,).
        metric: diagonal of Λ, shape (n,).
        gamma: a Lipschitz bound for which Condition 2 holds in that metric, if only just.
        linear: how many coordinates, the first ones, have the identity for σ; the others have ReLU.
    """

    matrix: Tensor
    input_weight: Tensor
    bias: Tensor
    output_weight: Tensor
    output_bias: Tensor
    metric: Tensor
    gamma: float
    linear: int

    def __repr__(self) -> str:
        sizes = f"inputs={self.input_weight.shape[1]}, states={len(self.matrix)}, outputs={len(self.output_weight)}"
        return f"Embedding({sizes}, gamma={self.gamma:.6g})"

    @property
    def activation(self) -> PartlyLinear | ReLU:
        """σ."""
        return PartlyLinear(self.linear, ReLU()) if self.linear else ReLU()


Embedder = Callable[[Any], tuple[Embedding, Tensor]]
_embedders: list[Embedder] = []
_EMBEDDING = "wellposed.network.embedding"


def embedder(function: Embedder) -> Embedder:
    """Let a function find the embeddings of networks: with it a tensor of the network's dtype, on its device."""
    _embedders[:] = [function]
    return function


def embedding_of(network: Any) -> tuple[Embedding, Tensor]:
    """The embedding of a network or module, and a tensor of its dtype, on its device."""
    if not _embedders:
        importlib.import_module(_EMBEDDING)  # which says how, when it is imported
    return _embedders[0](network)

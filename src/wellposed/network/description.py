"""How a block is written down in a certificate file, for a checker that shares no code with this library."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True, eq=False, repr=False)
class Description:
    """What a certificate file says of a block, and the numbers that prove it.

    Attributes:
        kind: of proof by which `wellposed.checker` follows the block; ``"other"`` where it has none.
        options: what the entry of the block says besides, for JSON.
        value: the Euclidean Lipschitz constant that these numbers prove; None for the one that the description was asked for.
        tensors: the numbers, by their names within the block.
        in_metric: whether constants of the block are proved in diagonal metrics, which are not the block's own to find.
    """

    kind: str = "other"
    options: dict[str, Any] = field(default_factory=dict)
    value: float | None = None
    tensors: dict[str, Tensor] = field(default_factory=dict)
    in_metric: bool = False

    def __repr__(self) -> str:
        return f"Description({self.kind}: {', '.join(self.tensors) or 'no tensors'})"

"""Published weights as those of one of this library's networks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from wellposed.interop.files import Tensors


@dataclass(frozen=True)
class Published:
    """A family of networks with its options, and the tensors of its parts by name; float64.

    Attributes:
        family: name of the family.
        options: its hyper-parameters.
        layer: parameters and buffers of the equilibrium layer.
        head: of the last linear map.
        norm: of the batch normalisation between them, where there is one.
    """

    family: str
    options: dict[str, Any]
    layer: Tensors
    head: Tensors
    norm: Tensors = field(default_factory=dict)

"""Implicit graph networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from wellposed.errors import check, choices
from wellposed.models.families.base import Family, check_depth
from wellposed.names import GRAPH_VARIANTS

if TYPE_CHECKING:
    from torch import nn

    from wellposed.data.base import Data


@dataclass(frozen=True)
class IGNNFamily(Family):
    """Implicit graph network (Gu et al. 2020), with its orthogonal and its 1-Lipschitz variant."""

    name: ClassVar[str] = "ignn"
    domains: ClassVar[tuple[str, ...]] = ("graphs",)

    width: int = 64
    """Features of a node's state."""
    variant: str = "ignn"
    """ignn (rows bounded), orthogonal (kappa times an orthogonal map) or lipschitz (1-Lipschitz end to end)."""
    kappa: float = 0.9
    """Bound of the absolute row sums, or factor of the orthogonal map."""
    omega: float = 0.5
    """Weight of the node features, for the variant lipschitz."""
    depth: int = 3
    """Number of implicit layers, one after the other."""
    dropout: float = 0.5
    """Dropout in the head; the variant lipschitz has none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        choices("variant", self.variant, GRAPH_VARIANTS)
        check(0 < self.kappa < 1 or (self.kappa == 1 and self.variant == "lipschitz"), "kappa", self.kappa,
              "must lie in (0, 1), or be 1 for the variant lipschitz")  # fmt: skip
        check(0 < self.omega <= 1, "omega", self.omega, "must lie in (0, 1]")
        check_depth(self.depth)
        check(0 <= self.dropout < 1, "dropout", self.dropout, "must lie in [0, 1)")

    @override
    def build(self, shape: tuple[int, ...], classes: int) -> tuple[nn.Module, ...]:
        from torch import nn

        from wellposed.layers import GroupSort, ImplicitGraph, OrthogonalLinear
        from wellposed.layers.graph_classifier import NodeSum

        activation = "relu" if self.variant == "ignn" else "group_sort"
        layers = [
            ImplicitGraph(
                shape[0] if index == 0 else self.width, self.width, variant=self.variant, kappa=self.kappa,
                omega=self.omega, activation=activation, rtol=self.rtol, atol=self.rtol,
            )
            for index in range(self.depth)
        ]  # fmt: skip
        if self.variant == "lipschitz":
            head = [OrthogonalLinear(self.width, self.width), GroupSort(), OrthogonalLinear(self.width, classes)]
        else:
            head = [
                nn.Linear(self.width, self.width), nn.ReLU(), nn.Dropout(self.dropout), nn.Linear(self.width, classes),
            ]  # fmt: skip
        return (*layers, NodeSum(by_root=self.variant == "lipschitz"), nn.Sequential(*head))

    @override
    def model(self, data: Data) -> nn.Module:
        from wellposed.layers.graph_classifier import GraphClassifier

        *layers, head = self.build(data.shape, data.task.outputs)
        return GraphClassifier(tuple(layers), head)

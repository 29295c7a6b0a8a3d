"""The families of equilibrium layers on flat inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from wellposed.errors import check, choices
from wellposed.models.families.base import Family, check_depth
from wellposed.names import ACTIVATIONS, COUPLINGS

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class MonDEQFamily(Family):
    """Monotone DEQ (Winston & Kolter 2020): I − W ⪰ m·I."""

    name: ClassVar[str] = "mondeq"

    m: float = 20.0
    """Strong-monotonicity constant: larger is smoother, with smaller Lipschitz constants."""
    activation: str = "relu"
    """Activation with slopes in [0, 1]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.m > 0, "m", self.m, "must be positive")
        choices("activation", self.activation, ACTIVATIONS)

    @override
    def build(self, shape: tuple[int, ...], classes: int) -> tuple[nn.Module, ...]:
        from torch import nn

        from wellposed.layers import MonDEQ

        layer = MonDEQ(math.prod(shape), self.width, m=self.m, activation=self.activation, rtol=self.rtol)
        return layer, nn.Linear(self.width, classes)


@dataclass(frozen=True)
class LBENFamily(Family):
    """Lipschitz-bounded equilibrium network (Revay et al. 2020): γ-Lipschitz from normalised input to logits."""

    name: ClassVar[str] = "lben"

    gamma: float = 1.0
    """Lipschitz bound from normalised input to logits; 0 for none, well-posedness only."""
    learn_gamma: bool = False
    """Learn the bound, from gamma on."""
    metric: str = "diagonal"
    """diagonal, to learn a metric, or identity."""
    epsilon: float = 0.01
    """Margin of the condition: small values give up little of the bound."""
    activation: str = "relu"
    """Activation with slopes in [0, 1]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.gamma >= 0, "gamma", self.gamma, "must not be negative")
        check(self.epsilon > 0, "epsilon", self.epsilon, "must be positive")
        choices("metric", self.metric, ("diagonal", "identity"))
        choices("activation", self.activation, ACTIVATIONS)

    @override
    def build(self, shape: tuple[int, ...], classes: int) -> tuple[nn.Module, ...]:
        from torch import nn

        from wellposed.layers import LBEN

        bound: dict[str, Any] = (
            {"gamma": self.gamma, "out_features": classes, "learn_gamma": self.learn_gamma} if self.gamma else {}
        )
        layer = LBEN(
            math.prod(shape), self.width, metric=self.metric, epsilon=self.epsilon, activation=self.activation,
            rtol=self.rtol, **bound,
        )  # fmt: skip
        return (layer,) if self.gamma else (layer, nn.Linear(self.width, classes))


@dataclass(frozen=True)
class NEMONFamily(Family):
    """Non-Euclidean monotone operator network (Jafarpour et al. 2021): μ_∞,η(W) ≤ mu < 1."""

    name: ClassVar[str] = "nemon"
    has_intervals: ClassVar[bool] = True
    penalty_norms: ClassVar[tuple[str, ...]] = ("2", "inf", "1")

    mu: float = 0.0
    """Bound of the log norm, below one: larger is more expressive and less smooth."""
    activation: str = "relu"
    """Activation with slopes in [0, 1]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.mu < 1, "mu", self.mu, "must be below one")
        choices("activation", self.activation, ACTIVATIONS)

    @override
    def build(self, shape: tuple[int, ...], classes: int) -> tuple[nn.Module, ...]:
        from torch import nn

        from wellposed.layers import NEMON

        layer = NEMON(math.prod(shape), self.width, mu=self.mu, activation=self.activation, rtol=self.rtol)
        return layer, nn.Linear(self.width, classes)

    @override
    def constant(self, model: nn.Module, norm: str) -> Tensor:
        if norm == "2":
            return super().constant(model, norm)
        layer: Any
        *_, layer, head = model.children()
        return layer.gain(head.weight, norm=norm)


@dataclass(frozen=True)
class OrthogonalFamily(Family):
    """Orthogonal DEQ (after Singh & Lou): 1-Lipschitz from pixels to logits with the convex or joint coupling."""

    name: ClassVar[str] = "orthogonal"
    scales_input: ClassVar[bool] = False

    coupling: str = "convex"
    """convex, additive, joint or residual: how the input enters."""
    omega: float = 0.5
    """Weight of the input in the convex coupling."""
    kappa: float | None = None
    """Contraction factor; by default 1 for the convex coupling and 0.7 for the others."""
    depth: int = 1
    """Number of orthogonal maps in the cell."""

    def __post_init__(self) -> None:
        super().__post_init__()
        choices("coupling", self.coupling, COUPLINGS)
        check(0 < self.omega <= 1, "omega", self.omega, "must lie in (0, 1]")
        check_depth(self.depth)

    @override
    def build(self, shape: tuple[int, ...], classes: int) -> tuple[nn.Module, ...]:
        from wellposed.layers import OrthogonalDEQ, OrthogonalLinear

        layer = OrthogonalDEQ(
            math.prod(shape), self.width, coupling=self.coupling, omega=self.omega, kappa=self.kappa, depth=self.depth,
            rtol=self.rtol,
        )  # fmt: skip
        return layer, OrthogonalLinear(self.width, classes)

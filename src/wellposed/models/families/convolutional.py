"""The families of monotone convolutional equilibrium layers on images, Euclidean and not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from wellposed.errors import check, choices
from wellposed.models.families.image import ConvFamily
from wellposed.names import IMAGE_METRICS

if TYPE_CHECKING:
    from torch import nn

    from wellposed.layers import ConvLBEN
    from wellposed.layers.conv_equilibrium import ImageLayer


@dataclass(frozen=True)
class MonDEQConvFamily(ConvFamily):
    """Monotone DEQ with one circular convolution (Winston & Kolter 2020)."""

    name: ClassVar[str] = "mondeq-conv"

    m: float = 1.0
    """Strong-monotonicity constant: larger is smoother, with smaller Lipschitz constants."""
    border: int = 0
    """1 keeps a border of the state zero, as the published networks do; 0 leaves images cyclic."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.m > 0, "m", self.m, "must be positive")
        check(self.border in (0, 1), "border", self.border, "must be 0 or 1")

    @override
    def layer(self, channels: int, image: tuple[int, int]) -> ImageLayer:
        from wellposed.layers import ConvMonDEQ

        return ConvMonDEQ(
            channels, self.width, image, m=self.m, taps=self.taps, input_taps=self.input_taps, stride=self.stride,
            border=self.border, rtol=self.rtol,
        )  # fmt: skip


@dataclass(frozen=True)
class MonDEQMultiFamily(MonDEQConvFamily):
    """Monotone DEQ over images of several sizes, the multi-tier network (Winston & Kolter 2020)."""

    name: ClassVar[str] = "mondeq-multi"

    further: tuple[int, ...] = (32,)
    """Channels of the further tiers, each of half the height and width of the one before."""
    pool: int = 1
    """Size of the windows that the last tier is averaged over before the linear head."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "further", tuple(self.further))  # TOML has lists
        check(all(channels > 0 for channels in self.further), "further", self.further, "must be positive")

    @override
    def layer(self, channels: int, image: tuple[int, int]) -> ImageLayer:
        from wellposed.layers import MultiScaleMonDEQ

        return MultiScaleMonDEQ(
            channels, (self.width, *self.further), image, m=self.m, taps=self.taps, input_taps=self.input_taps,
            stride=self.stride, border=self.border, rtol=self.rtol,
        )  # fmt: skip


@dataclass(frozen=True)
class LBENConvFamily(ConvFamily):
    """Convolutional Lipschitz-bounded equilibrium network (Revay et al. 2020): γ-Lipschitz from normalised input to logits."""

    name: ClassVar[str] = "lben-conv"

    gamma: float = 5.0
    """Lipschitz bound from normalised input to logits; 0 for none, well-posedness only."""
    learn_gamma: bool = False
    """Learn the bound, from gamma on."""
    metric: str = "channels"
    """What the metric may depend on: full, channels, image or identity."""
    input_in_metric: bool = True
    """Whether, with a bound, the input map has the metric in front; false as published, slow where it differs by pixel."""
    epsilon: float = 0.1
    """Margin of the condition: small values give up little of the bound, large ones make solves quicker."""
    border: int = 0
    """1 keeps a border of the state zero, as the published networks do; 0 leaves images cyclic."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.gamma >= 0, "gamma", self.gamma, "must not be negative")
        check(self.epsilon > 0, "epsilon", self.epsilon, "must be positive")
        choices("metric", self.metric, IMAGE_METRICS)
        check(self.border in (0, 1), "border", self.border, "must be 0 or 1")

    def _layer(self, channels: int, image: tuple[int, int], **bound: Any) -> ConvLBEN:
        from wellposed.layers import ConvLBEN

        return ConvLBEN(
            channels, self.width, image, metric=self.metric, epsilon=self.epsilon, taps=self.taps,
            input_taps=self.input_taps, stride=self.stride, border=self.border, rtol=self.rtol, **bound,
        )  # fmt: skip

    @override
    def layer(self, channels: int, image: tuple[int, int]) -> ImageLayer:
        return self._layer(channels, image)

    @override
    def build(self, shape: tuple[int, ...], classes: int) -> tuple[nn.Module, ...]:
        from torch import nn

        if not self.gamma:
            return super().build(shape, classes)
        bound = {
            "input_in_metric": self.input_in_metric, "gamma": self.gamma, "learn_gamma": self.learn_gamma, "pool": self.pool,
            "out_features": classes,
        }  # fmt: skip
        return nn.Unflatten(1, shape), self._layer(shape[0], (shape[1], shape[2]), **bound)


@dataclass(frozen=True)
class NEMONConvFamily(ConvFamily):
    """Non-Euclidean monotone network with one zero-padded convolution (Jafarpour et al. 2021)."""

    name: ClassVar[str] = "nemon-conv"
    has_intervals: ClassVar[bool] = True

    mu: float = 0.0
    """Bound of the log norm, below one: larger is more expressive and less smooth."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.mu < 1, "mu", self.mu, "must be below one")

    @override
    def layer(self, channels: int, image: tuple[int, int]) -> ImageLayer:
        from wellposed.layers import ConvNEMON

        return ConvNEMON(
            channels, self.width, image, mu=self.mu, taps=self.taps, input_taps=self.input_taps, stride=self.stride,
            rtol=self.rtol,
        )  # fmt: skip

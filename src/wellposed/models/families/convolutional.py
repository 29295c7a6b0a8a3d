"""The families of convolutional equilibrium layers on images."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn
from typing_extensions import override

from wellposed.activations.concave import concave_activation
from wellposed.constraints.conv_lipschitz_bounded import METRICS
from wellposed.constraints.nonnegative import PARAMETRISATIONS
from wellposed.errors import check, choices
from wellposed.layers import (
    ConvLBEN,
    ConvMonDEQ,
    ConvNEMON,
    ConvOrthogonalDEQ,
    ConvPcDEQ,
    MultiScaleMonDEQ,
    OrthogonalLinear,
    UnitPool2d,
)
from wellposed.layers.conv_equilibrium import ImageLayer
from wellposed.layers.conv_orthogonal import CONV_COUPLINGS
from wellposed.models.families.base import Family


@dataclass(frozen=True)
class _ConvFamily(Family):
    width: int = 32
    """Channels of the state."""
    taps: int = 3
    """Rows and columns of the kernels; odd."""
    input_taps: int | None = None
    """Rows and columns of the input convolution; odd, by default as the others."""
    stride: int = 2
    """Stride of the input convolution: the state has so many times fewer rows and columns."""
    pool: int = 2
    """Size of the windows that the state is averaged over before the linear head."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, taps in (
            ("taps", self.taps),
            ("input_taps", self.taps if self.input_taps is None else self.input_taps),
        ):
            check(taps >= 1 and taps % 2 == 1, name, taps, "must be odd")
        check(self.stride >= 1, "stride", self.stride, "must be at least 1")
        check(self.pool >= 1, "pool", self.pool, "must be at least 1")

    @abstractmethod
    def layer(self, channels: int, image: tuple[int, int]) -> ImageLayer:
        """The equilibrium layer for images of that many channels and that size."""

    def build(self, shape: tuple[int, ...], classes: int) -> tuple[nn.Module, ...]:
        layer = self.layer(shape[0], (shape[1], shape[2]))
        return nn.Unflatten(1, shape), layer, *pooled_head(layer.value_shape, self.pool, classes)


def pooled_head(shape: tuple[int, ...], pool: int, classes: int) -> tuple[nn.Module, ...]:
    """Averages over windows of an image of that shape, then a linear map to the logits."""
    rows, columns = (extent // pool for extent in shape[1:])
    check(min(rows, columns) >= 1, "pool", pool, f"is larger than the state of {shape[1:]} pixels")
    return nn.AvgPool2d(pool), nn.Flatten(), nn.Linear(shape[0] * rows * columns, classes)


@dataclass(frozen=True)
class MonDEQConvFamily(_ConvFamily):
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
        return ConvMonDEQ(
            channels,
            self.width,
            image,
            m=self.m,
            taps=self.taps,
            input_taps=self.input_taps,
            stride=self.stride,
            border=self.border,
            rtol=self.rtol,
        )


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
        return MultiScaleMonDEQ(
            channels, (self.width, *self.further), image, m=self.m, taps=self.taps, input_taps=self.input_taps,
            stride=self.stride, border=self.border, rtol=self.rtol,
        )  # fmt: skip


@dataclass(frozen=True)
class LBENConvFamily(_ConvFamily):
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
        choices("metric", self.metric, METRICS)
        check(self.border in (0, 1), "border", self.border, "must be 0 or 1")

    def _layer(self, channels: int, image: tuple[int, int], **bound: Any) -> ConvLBEN:
        return ConvLBEN(
            channels, self.width, image, metric=self.metric, epsilon=self.epsilon, taps=self.taps,
            input_taps=self.input_taps, stride=self.stride, border=self.border, rtol=self.rtol, **bound,
        )  # fmt: skip

    @override
    def layer(self, channels: int, image: tuple[int, int]) -> ImageLayer:
        return self._layer(channels, image)

    @override
    def build(self, shape: tuple[int, ...], classes: int) -> tuple[nn.Module, ...]:
        if not self.gamma:
            return super().build(shape, classes)
        bound = {
            "input_in_metric": self.input_in_metric,
            "gamma": self.gamma,
            "learn_gamma": self.learn_gamma,
            "pool": self.pool,
            "out_features": classes,
        }
        return nn.Unflatten(1, shape), self._layer(shape[0], (shape[1], shape[2]), **bound)


@dataclass(frozen=True)
class NEMONConvFamily(_ConvFamily):
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
        return ConvNEMON(
            channels, self.width, image, mu=self.mu, taps=self.taps, input_taps=self.input_taps, stride=self.stride,
            rtol=self.rtol,
        )  # fmt: skip


@dataclass(frozen=True)
class PcDEQConvFamily(_ConvFamily):
    """Convolutional positive concave DEQ (Gabor et al. 2024): nonnegative kernels of any size."""

    name: ClassVar[str] = "pcdeq-conv"

    activation: str = "tanh"
    """Activation that is concave on the positive axis; the sigmoid makes it variant 2."""
    floor: float = 0.1
    """Least value of the offset in variant 1."""
    sharpness: float = 1.0
    """β of the offset softplus(βv)/β in variant 1; 5 in the published networks."""
    parametrisation: str = "square"
    """How W ≥ 0 is made: square, softplus or projection."""

    def __post_init__(self) -> None:
        super().__post_init__()
        concave_activation(self.activation)
        choices("parametrisation", self.parametrisation, PARAMETRISATIONS)
        check(self.floor > 0, "floor", self.floor, "must be positive")
        check(self.sharpness > 0, "sharpness", self.sharpness, "must be positive")

    def _block(
        self, channels: tuple[int, int], image: tuple[int, int], stride: int, padding: int | None
    ) -> tuple[ConvPcDEQ, tuple[nn.Module, ...]]:
        layer = ConvPcDEQ(
            channels[0], channels[1], image, activation=self.activation, parametrisation=self.parametrisation,
            floor=None if self.activation == "sigmoid" else self.floor, sharpness=self.sharpness, batch_norm=True,
            taps=self.taps, input_taps=self.input_taps, stride=stride, padding=padding, rtol=self.rtol,
        )  # fmt: skip
        return layer, (layer, nn.MaxPool2d(3, 1, 1), nn.BatchNorm2d(channels[1]))

    @override
    def layer(self, channels: int, image: tuple[int, int]) -> ConvPcDEQ:
        return self._block((channels, self.width), image, self.stride, None)[0]

    @override
    def build(self, shape: tuple[int, ...], classes: int) -> tuple[nn.Module, ...]:
        layer, block = self._block((shape[0], self.width), (shape[1], shape[2]), self.stride, None)
        return nn.Unflatten(1, shape), *block, *pooled_head(layer.state_shape, self.pool, classes)


@dataclass(frozen=True)
class PcDEQMultiFamily(PcDEQConvFamily):
    """Several positive concave layers one after the other, each on half the height and width (Gabor et al. 2024)."""

    name: ClassVar[str] = "pcdeq-multi"

    width: int = 12
    """Channels of the first layer."""
    further: tuple[int, ...] = (24, 48)
    """Channels of the further layers."""
    stride: int = 1
    """Stride of the first input convolution; the others have two."""
    pool: int = 4
    """Size of the windows that the last state is averaged over before the linear head."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "further", tuple(self.further))  # TOML has lists
        check(all(channels > 0 for channels in self.further), "further", self.further, "must be positive")

    @override
    def build(self, shape: tuple[int, ...], classes: int) -> tuple[nn.Module, ...]:
        layer, blocks = self._block((shape[0], self.width), (shape[1], shape[2]), self.stride, None)
        for channels in self.further:
            before, *image = layer.state_shape
            layer, more = self._block((before, channels), (image[0], image[1]), 2, 0)
            blocks = (*blocks, *more)
        return nn.Unflatten(1, shape), *blocks, *pooled_head(layer.state_shape, self.pool, classes)


@dataclass(frozen=True)
class OrthogonalConvFamily(Family):
    """Single-layer orthogonal residual network on images (after Singh & Lou): 1-Lipschitz from pixels to logits."""

    name: ClassVar[str] = "orthogonal-conv"
    scales_input: ClassVar[bool] = False

    width: int = 48
    """Channels of the state; even."""
    hidden: int = 64
    """Channels inside of the cell; even."""
    coupling: str = "residual"
    """residual or convex: how the input enters."""
    kappa: float = 0.99
    """Contraction factor of the cell, at most one."""
    omega: float = 0.5
    """Weight of the input in the convex coupling."""
    stride: int = 1
    """Stride of the input convolution: the state has so many times fewer rows and columns."""
    pool: int = 8
    """Size of the windows that the state is averaged over before the linear head."""
    published: bool = False
    """Around the cell what the paper has, which is not 1-Lipschitz: an ordinary convolution, batch normalisation and head."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.width % 2 == 0, "width", self.width, "must be even, for MaxMin")
        check(self.hidden > 0 and self.hidden % 2 == 0, "hidden", self.hidden, "must be positive and even, for MaxMin")
        choices("coupling", self.coupling, CONV_COUPLINGS)
        check(0 < self.kappa <= 1, "kappa", self.kappa, "must lie in (0, 1]")
        check(0 < self.omega <= 1, "omega", self.omega, "must lie in (0, 1]")
        check(self.stride >= 1, "stride", self.stride, "must be at least 1")
        check(not self.published or self.stride == 1, "stride", self.stride, "must be 1 for the published network")
        check(self.pool >= 1, "pool", self.pool, "must be at least 1")

    @override
    def build(self, shape: tuple[int, ...], classes: int) -> tuple[nn.Module, ...]:
        image = (shape[1], shape[2])
        cell: dict[str, Any] = {
            "hidden": self.hidden, "coupling": self.coupling, "kappa": self.kappa, "omega": self.omega, "rtol": self.rtol,
            "atol": self.rtol,
        }  # fmt: skip
        if self.published:
            layer = ConvOrthogonalDEQ(self.width, self.width, image, encode=False, **cell)
            encoder = (nn.Conv2d(shape[0], self.width, 3, padding=1), nn.BatchNorm2d(self.width))
            head = pooled_head(layer.state_shape, self.pool, classes)
            return nn.Unflatten(1, shape), *encoder, layer, nn.BatchNorm2d(self.width), *head
        layer = ConvOrthogonalDEQ(shape[0], self.width, image, stride=self.stride, **cell)
        rows, columns = (extent // self.pool for extent in layer.state_shape[1:])
        check(min(rows, columns) >= 1, "pool", self.pool, f"is larger than the state of {layer.state_shape[1:]} pixels")
        linear = OrthogonalLinear(self.width * rows * columns, classes)
        return nn.Unflatten(1, shape), layer, UnitPool2d(self.pool), nn.Flatten(), linear

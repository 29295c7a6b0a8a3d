"""The family of orthogonal equilibrium layers on images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from wellposed.errors import check, choices
from wellposed.models.families.base import Family
from wellposed.models.families.image import pooled_head
from wellposed.names import CONV_COUPLINGS

if TYPE_CHECKING:
    from torch import nn


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
        from torch import nn

        from wellposed.layers import ConvOrthogonalDEQ, OrthogonalLinear, UnitPool2d

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

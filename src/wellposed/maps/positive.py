"""Input maps of positive concave layers: an affine map, possibly a batch normalisation, and a positive part; here a matrix."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from wellposed.errors import GuaranteeError, InputError
from wellposed.maps.affine import Affine, Matrix
from wellposed.maps.base import FlatMap, InputMap
from wellposed.maps.batch_norm import batch_norm_map, require_fixed
from wellposed.maps.checks import require_kind
from wellposed.maps.positive_part import PositivePart
from wellposed.solvers.a_posteriori import ExactOffset

# Roundings of an entry of U that a normalisation was folded into: of the variance plus ε, its reciprocal root (which counts as
# four), the weight of the normalisation, and the product; and as many of b, relative to the sizes of its two terms.
_FOLDING = 8

Numbers = TypeVar("Numbers", bound=Affine)


class PositiveInjection(InputMap):
    """The positive part of ``v = U x + b``, normalised over the batch if that is wanted.

    Attributes:
        floor: see `PositivePart`.
        sharpness: see `PositivePart`.
        norm: normalises v over the batch, if it is not None; in eval mode that is a part of U and b.
    """

    floor: float
    sharpness: float
    norm: nn.BatchNorm1d | nn.BatchNorm2d | None

    @property
    @override
    def computes_numbers(self) -> bool:
        return self.norm is None and super().computes_numbers

    @property
    @override
    def positive_part(self) -> PositivePart:
        return PositivePart(self.floor, self.sharpness)

    @property
    @override
    def stored(self) -> Tensor:
        return self.weight

    def normalised(self, value: Tensor) -> Tensor:
        """The positive part of v, normalised where that is wanted."""
        return self.positive_part(value if self.norm is None else self.norm(value))

    def folded(self, numbers: Numbers) -> Numbers:
        """The numbers of v with the normalisation of eval mode in them.

        Raises:
            InputError: in training mode, where the normalisation depends on the batch.
        """
        if self.norm is None:
            return numbers
        if self.norm.training or self.norm.running_var is None or self.norm.running_mean is None:
            raise InputError("training=True: batch normalisation depends on the batch; call eval() first")
        weight, each = numbers.weight, (-1, *[1] * (numbers.bias.ndim - 1))
        scale = batch_norm_map(self.norm)[0].reshape(each)
        # The difference of bias and mean rounds relative to itself.
        moved = (numbers.bias - self.norm.running_mean.double().reshape(each)) * scale
        shift = torch.zeros_like(moved) if self.norm.bias is None else self.norm.bias.detach().double().reshape(each)
        return replace(
            numbers, weight=weight * scale.reshape(-1, *[1] * (weight.ndim - 1)), bias=moved + shift,
            bias_size=moved.abs() + shift.abs(), roundings=_FOLDING,
        )  # fmt: skip

    @override
    def exact(self, rows: Tensor) -> ExactOffset:
        return self.positive_part.exact(self.numbers().exact(rows))

    def require_plain(self) -> None:
        """Refuse intervals of what is normalised."""
        if self.norm is not None:
            raise GuaranteeError("injection.norm: intervals of what is normalised over a batch are not known")

    @override
    def cancelled(self) -> float:
        if self.norm is None or self.norm.running_mean is None:
            return 0.0
        scale = batch_norm_map(self.norm)[0].abs()
        size = self.norm.running_mean.double().abs()
        if self.bias is not None:
            size = size + self.bias.detach().double().abs()
        copies = (math.prod(self.output_shape) / len(scale)) ** 0.5
        return float((scale * size).norm()) * copies

    @override
    def check_numbers(self, name: str) -> None:
        if self.norm is not None:
            require_kind(f"{name}.norm", self.norm, (nn.BatchNorm1d, nn.BatchNorm2d))
            require_fixed(f"{name}.norm", self.norm, len(self.weight))


class PositiveLinear(nn.Linear, FlatMap, PositiveInjection):
    """A matrix with a positive part.

    Args:
        in_features: inputs.
        out_features: outputs.
        floor: at least zero.
        sharpness: β.
        batch_norm: normalise v over the batch.
        options: as for `torch.nn.Linear`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        floor: float,
        sharpness: float = 1.0,
        *,
        batch_norm: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(in_features, out_features, **options)
        self.floor, self.sharpness = floor, sharpness
        where = {name: value for name, value in options.items() if name != "bias"}
        self.norm = nn.BatchNorm1d(out_features, **where) if batch_norm else None

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.normalised(super().forward(x))

    @override
    def numbers(self) -> Matrix:
        return self.folded(super().numbers())

    @override
    def spread(self, half: Tensor) -> Tensor:
        self.require_plain()
        return super().spread(half)

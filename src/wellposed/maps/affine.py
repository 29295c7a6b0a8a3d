"""The stored numbers of an affine map ``x ↦ U x + b`` in float64, and what is proved of them; here for a matrix U."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.numerics.euclidean import euclidean, frobenius, product_underflow
from wellposed.numerics.outward import (
    TINY,
    above,
    enlarged,
    enlarged_entries,
    enlarged_norm,
    rounding_constant,
    unit_of,
)
from wellposed.numerics.verified import spectral_norm_upper_bound
from wellposed.solvers.a_posteriori import ExactOffset

if TYPE_CHECKING:
    from wellposed.maps.convolution import CircularConvolution, Convolution


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Affine(ABC):
    """The numbers of ``x ↦ U x + b``, float64.

    Where U and b were computed, as by folding in a normalisation, the entries of U are off by ``roundings`` roundings of float64,
    and those of b by as many relative to ``bias_size``.

    Attributes:
        weight: U, outputs first; of a convolution its kernel.
        bias: b, to be broadcast over the outputs of one sample.
        bias_size: sums of the absolute values of the terms of b, of the shape of b.
        roundings: zero for numbers as stored.
    """

    weight: Tensor
    bias: Tensor
    bias_size: Tensor
    roundings: int = 0

    def __repr__(self) -> str:
        return f"{type(self).__name__}(weight={tuple(self.weight.shape)}, roundings={self.roundings})"

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """U x, without b, for a batch x."""

    @abstractmethod
    def absolute(self, x: Tensor) -> Tensor:
        """|U| x for a batch x, |U| the absolute values of all entries."""

    @property
    @abstractmethod
    def row_norms(self) -> Tensor:
        """Upper bounds of the Euclidean norms of the rows of U, to be broadcast over the outputs of one sample."""

    @abstractmethod
    def norm_bound(self) -> float:
        """Proved upper bound of ‖U‖₂."""

    @abstractmethod
    def absolute_norm(self) -> float:
        """Upper bound of ‖|U|‖₂, by which relative roundings of single products add up."""

    @property
    def terms(self) -> int:
        """How many products are added up in one entry of U x."""
        return self.weight[0].numel()

    def as_matrix(self) -> Matrix | None:
        """These numbers, if U is stored as a matrix."""
        return None

    def as_convolution(self) -> Convolution | None:
        """These numbers, if U is a zero-padded convolution."""
        return None

    def as_circular(self) -> CircularConvolution | None:
        """These numbers, if U is a circular convolution, possibly scaled."""
        return None

    def cpu(self) -> Self:
        """These numbers on the CPU."""
        parts = ((field.name, getattr(self, field.name)) for field in fields(self))
        moved: dict[str, Any] = {name: part.cpu() for name, part in parts if isinstance(part, Tensor)}
        return replace(self, **moved)

    def exact(self, rows: Tensor) -> ExactOffset:
        """U x + b in float64, with a bound on the Euclidean error of each sample.

        Args:
            rows: inputs, shape (batch, *input_shape), any float dtype.
        """
        exact = rows.detach().double()
        value = self(exact) + self.bias
        # By norms, which need no second product of its size.
        inside = enlarged(euclidean(exact), exact[0].numel() + 2) * self.absolute_norm()
        size = inside + euclidean(self.bias_size.expand_as(value[:1]))
        # As many roundings as there are terms, b among them; twice that covers those of the bound itself.
        rounding = 2.0 * rounding_constant(self.terms + 4 + self.roundings) * size
        norm = float(self.weight.abs().sum())
        lost = product_underflow(rows.dtype, value[0].numel(), self.terms, exact[0].numel(), norm, euclidean(exact))
        return ExactOffset(value, rounding + lost * self._amplified)

    @property
    def _amplified(self) -> float:
        """By how much what underflows in the products with the weight may be enlarged afterwards."""
        return 1.0

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Proved bounds of every entry of U x + b for all x between two.

        Args:
            lower: shape (batch, *input_shape), float64.
            upper: of the shape of ``lower``.
        """
        centre = 0.5 * lower + 0.5 * upper
        half = above(torch.maximum(upper - centre, centre - lower))
        return self._around(centre, enlarged(self.absolute(half), self.terms + self.roundings + 1))

    def interval_of_balls(self, centre: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
        """Proved bounds of every entry of U x + b for all x in Euclidean balls.

        Args:
            centre: shape (batch, *input_shape), float64.
            radius: shape (batch,), float64.
        """
        return self._around(centre, enlarged(self.row_norms * radius.reshape(-1, *[1] * self.bias.ndim), 1))

    def _around(self, centre: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds of U x + b for all x where U x is within a reach of U·centre, rounding included."""
        value = self(centre) + self.bias
        size = self.absolute(centre.abs()) + self.bias_size
        away = reach + 2.0 * rounding_constant(self.terms + self.roundings + 16) * size + TINY
        return value - away, value + away


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Matrix(Affine):
    """Numbers whose U is a matrix, shape (outputs, inputs), and b a vector, shape (outputs,)."""

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None = None, *, roundings: int = 0) -> Matrix:
        """The numbers of a weight and a bias of any float dtype; no bias is zero.

        Args:
            weight: shape (outputs, inputs).
            bias: shape (outputs,), or None.
            roundings: how many roundings of float64 they may be off.
        """
        exact = weight.detach().double()
        shift = exact.new_zeros(len(exact)) if bias is None else bias.detach().double()
        return cls(weight=exact, bias=shift, bias_size=shift.abs(), roundings=roundings)

    @override
    def __call__(self, x: Tensor) -> Tensor:
        return x @ self.weight.t()

    @override
    def absolute(self, x: Tensor) -> Tensor:
        return x @ self.weight.abs().t()

    @property
    @override
    def row_norms(self) -> Tensor:
        return enlarged_norm(self.weight.norm(dim=1), self.terms + self.roundings)

    @cached_property
    def _sizes(self) -> tuple[float, float]:
        """Euclidean norms of all entries of U, and of the sizes of b."""
        return frobenius(self.weight), frobenius(self.bias_size)

    @override
    def norm_bound(self) -> float:
        value = spectral_norm_upper_bound(self.weight)
        return enlarged_entries(value, min(self.weight.shape) ** 0.5, self.roundings) if self.roundings else value

    @override
    def absolute_norm(self) -> float:
        return enlarged(spectral_norm_upper_bound(self.weight.abs()), self.roundings)

    @override
    def as_matrix(self) -> Matrix:
        return self

    @override
    def exact(self, rows: Tensor) -> ExactOffset:
        exact = rows.detach().double()
        value = torch.addmm(self.bias, exact, self.weight.t())
        # By norms, which need no second product: |U||x| has at most the norm ‖U‖_F‖x‖.
        outputs, inputs = self.weight.shape
        norm = enlarged(euclidean(rows.detach()), inputs + 2, unit_of(rows.dtype))
        weight, bias = self._sizes
        size = norm * weight + bias
        rounding = 2.0 * rounding_constant(inputs + 3 + self.roundings) * size
        return ExactOffset(value, rounding + product_underflow(rows.dtype, outputs, inputs, inputs, weight, norm))

    def margins(self, lower: Tensor, upper: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Proved bounds of the differences of entries, y = U x + b: of y[label] − y[k] for every k, for all x between two.

        Args:
            lower: shape (batch, *input_shape), float64.
            upper: of the shape of ``lower``.
            labels: an output for each, shape (batch,).
        """
        weight = self.weight
        own, constant = weight[labels][:, None], self.bias[labels][:, None] - self.bias
        least, most = (part.flatten(1)[:, :, None] for part in (lower, upper))
        rows = own - weight
        sizes = ((weight.abs() + own.abs()) @ torch.maximum(least.abs(), most.abs()))[:, :, 0]
        size = sizes + self.bias_size + self.bias_size[labels][:, None]
        error = 2.0 * rounding_constant(self.terms + self.roundings + 16) * size
        plus, minus = rows.clamp_min(0.0), (-rows).clamp_min(0.0)
        low, high = (plus @ near - minus @ far for near, far in ((least, most), (most, least)))
        return low[:, :, 0] + constant - error, high[:, :, 0] + constant + error

    def behind(self, mean: Tensor, std: Tensor) -> Matrix:
        """The numbers of ``x ↦ U (x − mean)/std + b``: a normalisation folded in.

        An entry of b is a sum of one more term for each input, of which each was divided and multiplied once.

        Args:
            mean: shape (inputs,), float64.
            std: positive, shape (inputs,), float64.
        """
        shift = -mean / std
        return Matrix(
            weight=self.weight / std,
            bias=self.bias + self.weight @ shift,
            bias_size=self.bias_size + self.weight.abs() @ shift.abs(),
            roundings=self.roundings + self.terms + 2,
        )

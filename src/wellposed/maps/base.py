"""What a layer, and every theorem about it, asks of the affine maps around its state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from typing_extensions import override

from wellposed.constraints.factorisations import factorisation_cache, is_transformed
from wellposed.errors import GuaranteeError
from wellposed.maps.affine import Affine, Matrix
from wellposed.maps.checks import check_map, computes_as_written
from wellposed.solvers.a_posteriori import ExactOffset

if TYPE_CHECKING:
    from wellposed.maps.convolution import Convolution
    from wellposed.maps.positive_part import PositivePart


class AffineMap(nn.Module, ABC):
    """A part of a layer that computes ``x ↦ U x + b``: from the input to the state, or from either to the layer's value.

    Attributes:
        weight: U, or the kernel of U, as it runs.
        bias: b as a tensor, or None for zero.
    """

    weight: Tensor
    bias: Any

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""

    @property
    @abstractmethod
    def output_shape(self) -> tuple[int, ...]:
        """Shape of one output."""

    @abstractmethod
    def numbers(self) -> Affine:
        """U and b as they act in eval mode, with whatever scales or normalises U x + b folded in.

        Raises:
            InputError: the map depends on the batch.
        """

    def check_numbers(self, name: str) -> None:
        """Refuse numbers and options that do not fit together.

        Args:
            name: of this map, for the error.

        Raises:
            CertificateError: with what does not fit.
        """

    def bound_logarithm(self) -> Tensor | None:
        """The parameter that holds the logarithm of a Lipschitz bound of the layer, for maps that scale with it."""
        return None


class FlatMap(AffineMap):
    """A map of vectors, whose weight is its matrix, shape (out_features, in_features)."""

    in_features: int
    out_features: int

    @property
    @override
    def input_shape(self) -> tuple[int, ...]:
        return (self.in_features,)

    @property
    @override
    def output_shape(self) -> tuple[int, ...]:
        return (self.out_features,)

    @override
    def numbers(self) -> Matrix:
        parts = (self.weight,) if self.bias is None else (self.weight, self.bias)
        if is_transformed(parts):
            return Matrix.of(self.weight, self.bias)
        entry = factorisation_cache(self).entry(*(part.detach() for part in parts))
        return entry.remembered("numbers", lambda: Matrix.of(entry.tensor, *entry.tensors[1:]))

    def spread(self, half: Tensor) -> Tensor:
        """|U|·half, see `InputMap.spread`."""
        return half @ self.weight.abs().t()

    @override
    def check_numbers(self, name: str) -> None:
        check_map(name, self, self.in_features, self.out_features)
        super().check_numbers(name)


class InputMap(AffineMap):
    """How an input drives a state: ``x ↦ U x + b``, or what `positive_part` makes of that.

    An input map of one's own gives its shapes, ``forward`` and `numbers`, and a layer whose ``injections`` name it; everything
    else follows from the numbers, or is refused where they do not tell.
    """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """The offset of the state in working precision, shape (batch, *input_shape) to (batch, *output_shape)."""

    @property
    def stored(self) -> Tensor:
        """A parameter, whose dtype and device inputs must have."""
        return next(self.parameters())

    def product(self) -> tuple[Tensor, Tensor | None] | None:
        """U and b, with their graphs, where ``forward`` surely is ``x Uᵀ + b`` and nothing else happens there; else None."""
        return None

    @property
    def computes_numbers(self) -> bool:
        """Whether ``forward`` surely gives what `exact` gives, but for rounding: nothing was replaced, no hook registered."""
        return computes_as_written(self, "numbers", "exact")

    @property
    def positive_part(self) -> PositivePart | None:
        """The increasing function with slopes in [0, 1] that comes after U x + b, or None for none."""
        return None

    def affine(self) -> Affine | None:
        """The numbers of the whole map, or None where it is more than ``U x + b``."""
        return None if self.positive_part is not None else self.numbers()

    def matrix(self) -> Matrix | None:
        """The numbers of the whole map if it is ``U x + b`` with a matrix U, and else None."""
        found = self.affine()
        return None if found is None else found.as_matrix()

    def convolution(self) -> Convolution | None:
        """The zero-padded convolution with centred taps whose image the map puts into the state, or None if it is none."""
        return None

    def norm_bound(self) -> float:
        """Proved Euclidean Lipschitz constant of the map, for the stored numbers."""
        return self.numbers().norm_bound()

    def exact(self, rows: Tensor) -> ExactOffset:
        """The offset in float64, with a bound on the Euclidean error of each sample.

        Args:
            rows: inputs, shape (batch, *input_shape), any float dtype.
        """
        return self.numbers().exact(rows)

    def cancelled(self) -> float:
        """Euclidean size of what ``forward`` adds up and takes away again, beyond U x and b."""
        return 0.0

    def spread(self, half: Tensor) -> Tensor:
        """By how much offsets move at most, in every component, where inputs move by ``half``: |U|·half, for training.

        Args:
            half: at least zero, shape (batch, *input_shape).

        Raises:
            GuaranteeError: nothing is known of intervals.
        """
        raise GuaranteeError(f"{type(self).__name__}: nothing is known of intervals of the offsets of this input map")

    def interval(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds of the offsets for all inputs between two, for training: differentiable, rounding not counted.

        Args:
            low: least inputs, shape (batch, *input_shape).
            high: largest inputs, shape (batch, *input_shape).

        Raises:
            GuaranteeError: nothing is known of intervals.
        """
        value, away = self(0.5 * (low + high)), self.spread(0.5 * (high - low))
        return value - away, value + away

"""What a state map W must offer: apply, adjoint, resolvent, norm bounds, and a dense form for checking."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Self, TypeVar

import torch
from torch import Tensor

from wellposed.errors import InputError
from wellposed.numerics.brief import Brief
from wellposed.numerics.outward import next_up

T = TypeVar("T")


class Transform(ABC):
    """A linear map that an iteration applies: all that solvers need of a factorised resolvent."""

    def matrix(self) -> Tensor | None:
        """The matrix by which the map is given, shape (n, n), as it acts; None for a map that is given otherwise."""
        return None

    @abstractmethod
    def affine(self, state: Tensor, offset: Tensor) -> Tensor:
        """The map of the state, plus the offset, for a batch of states; both of shape (batch, *state)."""

    @abstractmethod
    def apply(self, state: Tensor) -> Tensor:
        """The map of a batch of states of shape (batch, *state)."""

    @abstractmethod
    def transpose(self) -> Self:
        """The adjoint map; factorisations are shared with this one."""

    @abstractmethod
    def norm_estimate(self) -> float:
        """A cheap estimate of the root-mean-square singular value: predicts convergence, proves nothing."""


@dataclass(frozen=True, eq=False, repr=False)
class Coefficients(Brief):
    """The numbers of a map whose every output is a sum of products of inputs with them.

    Attributes:
        weight: a matrix, shape (n, n), or the kernel of a zero-padded convolution, shape (channels, channels, rows, columns).
        own: which of them multiply a component of the state for the same component, boolean, the shape of ``weight``.
    """

    weight: Tensor
    own: Tensor


@dataclass(frozen=True, eq=False, repr=False)
class FrequencyForm(Brief):
    """A circular convolution by its matrices at every frequency.

    Attributes:
        transfer: complex, shape (height, width//2 + 1, channels, channels); entries err by two roundings of complex128 at most.
        image: height and width of the state.
        metric: the diagonal of the metric that goes with the map, float64, shape (channels,).
    """

    transfer: Tensor
    image: tuple[int, int]
    metric: Tensor


class Operator(Transform):
    """A linear map W on the state, applied to a batch of states; immutable, built once per forward pass.

    Every tensor that the map depends on is in ``tensors``, so that gradients can be routed to them.
    """

    @property
    @abstractmethod
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors that define the map."""

    @property
    @abstractmethod
    def state_shape(self) -> tuple[int, ...]:
        """Shape of one state."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The real dtype of states."""

    @property
    @abstractmethod
    def transposed(self) -> bool:
        """Whether the map acts as the adjoint of the one that its tensors are about."""

    @property
    def metric(self) -> Tensor | None:
        """The diagonal of the metric that goes with the map, float64, shape (n,), inverted for the adjoint map; None for ones."""
        return None

    @property
    def scale(self) -> Tensor | None:
        """Ψ = Λ⁻¹ > 0 of a shape that broadcasts to the state's, where splittings take the steps α·Λ; None for ones."""
        return None

    @property
    def scaling(self) -> Tensor | None:
        """Λ > 0 of a shape that broadcasts to the state's, where splittings take the steps α·Λ; None for ones."""
        return None if self.scale is None else 1.0 / self.scale

    def coefficients(self) -> Coefficients | None:
        """The matrix or kernel by which the map is given, as it acts; None for a map that is given otherwise."""
        return None

    def frequency_form(self) -> FrequencyForm | None:
        """The map, but not its adjoint, frequency by frequency; None where it is no circular convolution."""
        return None

    def embedding(self) -> Operator | None:
        """[[D + P, −N], [−N, D + P]], for a map D + P − N with D its diagonal and P, N ≥ 0; None without `coefficients`."""
        return None

    @abstractmethod
    def remembered(self, key: Hashable, compute: Callable[[], T], *, oriented: bool = False) -> T:
        """A value that depends on the map's numbers alone, computed once for them.

        Args:
            key: names the value.
            compute: computes it.
            oriented: whether it differs for the adjoint map.
        """

    @abstractmethod
    def rebuild(self, tensors: tuple[Tensor, ...]) -> Self:
        """The operator with other tensors in place of ``self.tensors``; factorisations are shared."""

    @abstractmethod
    def upright(self) -> Self:
        """The map that this is the adjoint of, if it is one, else itself."""

    @abstractmethod
    def cayley(self, step: float) -> Transform:
        """``C = 2·(I + step·Λ(I − W))⁻¹ − I``, Λ the `scaling`, factorised once for a given W and step and kept.

        The reflected resolvent of z ↦ (I − W)z − q with steps s = step·Λ is r ↦ C·r + s·q + C·(s·q).

        Raises:
            InputError: the map has no cheap resolvent.
        """

    @abstractmethod
    def tensor_gradients(self, cotangent: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        """Cotangents of ``self.tensors`` for the pairing ⟨cotangent, W·state⟩ summed over the batch."""

    @abstractmethod
    def tensor_tangent(self, tangents: tuple[Tensor, ...], state: Tensor) -> Tensor:
        """Change of ``W·state`` along tangents of ``self.tensors``."""

    @abstractmethod
    def to(self, dtype: torch.dtype) -> Self:
        """The operator in another precision."""

    def in_float64(self) -> Self:
        """The map in float64, formed once for its numbers."""
        if self.dtype == torch.float64:
            return self  # with tensors that others may write to
        return self.remembered("in float64", lambda: self.to(torch.float64), oriented=True)

    @abstractmethod
    def norm_upper_bound(self) -> float:
        """A cheap number that is at least the Euclidean operator norm of W, rounding included."""

    def displacement_norm(self) -> float:
        """A cheap number that is at least the Euclidean operator norm of Λ(I − W), Λ the `scaling`, rounding included."""
        return next_up(1.0 + self.norm_upper_bound())

    @abstractmethod
    def displacement_norm_estimate(self) -> float:
        """A cheap estimate of the root-mean-square singular value of Λ(I − W): sets step sizes, proves nothing."""

    def symmetric_parts(self) -> list[tuple[Tensor, float]]:
        """Matrices whose Hermitian parts are together a lower bound of the symmetric part of Λ(I − W), Λ the `scaling`.

        Returns:
            Pairs of complex128 matrices, shape (count, n, n), and a bound on the errors of each in the Euclidean norm.

        Raises:
            InputError: none are known; the matrix of the map must be formed.
        """
        raise InputError(f"W: {type(self).__name__} is not known frequency by frequency")

    @abstractmethod
    def trace(self) -> float:
        """The trace of W, as computed in its dtype."""

    @abstractmethod
    def rounding(self, state_norm: Tensor, offset_norm: Tensor) -> Tensor:
        """Per-sample bound on the rounding error of ``affine`` in the Euclidean norm."""

    def weighed_rounding(self, state_norm: Tensor, offset_norm: Tensor) -> Tensor | None:
        """Per-sample bound on ‖Λ·error‖₂ for the rounding error of ``affine``, Λ the `scaling`; None where none is known."""
        return None

    @abstractmethod
    def dense(self) -> Tensor:
        """The matrix of the map on the flattened state, shape (n, n), formed if need be."""

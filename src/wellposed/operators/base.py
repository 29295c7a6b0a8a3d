"""What a state map W must offer: apply, adjoint, resolvent, norm bounds, and a dense form for checking."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from typing import Self, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Transform(ABC):
    """A linear map that an iteration applies: all that solvers need of a factorised resolvent."""

    @abstractmethod
    def affine(self, state: Tensor, offset: Tensor) -> Tensor:
        """The map of the state, plus the offset, for a batch of states; both of shape (batch, *state)."""

    @abstractmethod
    def apply(self, state: Tensor) -> Tensor:
        """The map of a batch of states of shape (batch, *state)."""

    @abstractmethod
    def norm_estimate(self) -> float:
        """A cheap estimate of the root-mean-square singular value: predicts convergence, proves nothing."""


class Operator(Transform):
    """A linear map W on the state, applied to a batch of states; immutable, built once per forward pass.

    Every tensor that the map depends on is in ``tensors``, so that gradients can be routed to them.
    """

    @property
    def metric(self) -> Tensor | None:
        """The diagonal of the metric that goes with the map, float64 of shape (n,); its inverse for the adjoint map."""
        return None

    @property
    def scaling(self) -> Tensor | None:
        """Λ > 0 of a shape that broadcasts to the state's: splittings take the steps α·Λ; None for the same everywhere."""
        return None

    @abstractmethod
    def remembered(self, key: Hashable, compute: Callable[[], T], *, oriented: bool = False) -> T:
        """A value that depends on the map's numbers alone, computed once for them.

        Args:
            key: names the value.
            compute: computes it.
            oriented: whether it differs for the adjoint map.
        """

    @property
    @abstractmethod
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors that define the map."""

    @abstractmethod
    def rebuild(self, tensors: tuple[Tensor, ...]) -> Self:
        """The same structure with other tensors in place of ``self.tensors``; factorisations are shared."""

    @abstractmethod
    def transpose(self) -> Self:
        """The adjoint map; factorisations are shared with this one."""

    @abstractmethod
    def upright(self) -> Self:
        """The map that this is the adjoint of, if it is one, else itself."""

    @abstractmethod
    def cayley(self, step: float) -> Transform:
        """``C = 2·(I + step·Λ(I − W))⁻¹ − I``, Λ the `scaling`, factorised once for a given W and step and kept.

        The reflected resolvent of z ↦ (I − W)z − q with steps s = step·Λ is r ↦ C·r + s·q + C·(s·q).
        """

    @abstractmethod
    def tensor_gradients(self, cotangent: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        """Cotangents of ``self.tensors`` for the pairing ⟨cotangent, W·state⟩ summed over the batch."""

    @abstractmethod
    def tensor_tangent(self, tangents: tuple[Tensor, ...], state: Tensor) -> Tensor:
        """Change of ``W·state`` along tangents of ``self.tensors``."""

    @abstractmethod
    def to(self, dtype: torch.dtype) -> Self:
        """The same map in another precision."""

    @abstractmethod
    def norm_upper_bound(self) -> float:
        """A cheap number that is at least the Euclidean operator norm of W, rounding included."""

    @abstractmethod
    def trace(self) -> float:
        """The trace of W, as computed in its dtype."""

    @abstractmethod
    def displacement_norm_estimate(self) -> float:
        """A cheap estimate of the root-mean-square singular value of I − W: sets step sizes, proves nothing."""

    @abstractmethod
    def rounding(self, state_norm: Tensor, offset_norm: Tensor) -> Tensor:
        """Per-sample bound on the rounding error of ``affine`` in the Euclidean norm."""

    @abstractmethod
    def dense(self) -> Tensor:
        """The matrix of the map on the flattened state, shape (n, n)."""

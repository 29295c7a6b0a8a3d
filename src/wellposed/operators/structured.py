"""What state maps that are built from several tensors share."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Hashable
from typing import Self

import torch
from torch import Tensor

from wellposed.numerics.linear_algebra import directional_derivative
from wellposed.operators.base import Operator, T, Transform
from wellposed.operators.cache import Entry, FactorisationCache, version_of


class FactorisedTransform(Transform):
    """A transform that one factorisation serves in both orientations; ``apply`` looks at ``_transposed``."""

    _transposed: bool

    def transpose(self) -> Self:
        """The transform of the transposed map, from the same factorisation."""
        flipped = copy.copy(self)
        flipped._transposed = not self._transposed
        return flipped

    def affine(self, state: Tensor, offset: Tensor) -> Tensor:  # noqa: D102
        return self.apply(state) + offset


class StructuredOperator(Operator):
    """A map with several tensors, a shared cache, and a resolvent that one factorisation serves in both orientations.

    Args:
        cache: factorisations to share with other operators of the same layer; None for a new one.
        transposed: act as the transpose.
    """

    def __init__(self, cache: FactorisationCache | None, *, transposed: bool) -> None:
        self._cache = FactorisationCache() if cache is None else cache
        self._transposed = transposed
        self._found: tuple[tuple[int | None, ...], Entry] | None = None

    @abstractmethod
    def _like(self, tensors: tuple[Tensor, ...], *, transposed: bool) -> Self:
        """The same structure and cache with other tensors."""

    @abstractmethod
    def _factorised(self, step: float, tensors: tuple[Tensor, ...]) -> FactorisedTransform:
        """`cayley` of the upright map with these tensors."""

    @property
    @abstractmethod
    def _sizes(self) -> Hashable:
        """What the tensors' numbers leave open: sizes of images."""

    @property
    def transposed(self) -> bool:
        """Whether this acts as the transpose."""
        return self._transposed

    def rebuild(self, tensors: tuple[Tensor, ...]) -> Self:  # noqa: D102
        return self._like(tensors, transposed=self._transposed)

    def _entry(self) -> Entry:
        versions = tuple(version_of(tensor) for tensor in self.tensors)
        if self._found is None or None in versions or self._found[0] != versions:
            self._found = (versions, self._cache.entry(*(tensor.detach() for tensor in self.tensors)))
        return self._found[1]

    def remembered(self, key: Hashable, compute: Callable[[], T], *, oriented: bool = False) -> T:  # noqa: D102
        return self._entry().remembered((key, oriented and self._transposed, self._sizes), compute)

    def affine(self, state: Tensor, offset: Tensor) -> Tensor:  # noqa: D102
        return self.apply(state) + offset

    def transpose(self) -> Self:  # noqa: D102
        flipped = self._like(self.tensors, transposed=not self._transposed)
        flipped._found = self._found
        return flipped

    def upright(self) -> Self:  # noqa: D102
        return self.transpose() if self._transposed else self

    def cayley(self, step: float) -> Transform:  # noqa: D102
        if any(tensor.requires_grad for tensor in self.tensors) and torch.is_grad_enabled():
            transform = self._factorised(step, self.tensors)  # unrolled: keep the graph, cache nothing
        else:
            transform = self._cache.transform(
                self._entry(), (step, self._sizes), lambda *tensors: self._factorised(step, tensors)
            )
        return transform.transpose() if self._transposed else transform

    def tensor_gradients(self, cotangent: Tensor, state: Tensor) -> tuple[Tensor, ...]:  # noqa: D102
        return torch.func.vjp(lambda *tensors: self.rebuild(tensors).apply(state), *self.tensors)[1](cotangent)

    def tensor_tangent(self, tangents: tuple[Tensor, ...], state: Tensor) -> Tensor:  # noqa: D102
        return directional_derivative(lambda *tensors: self.rebuild(tensors).apply(state), self.tensors, tangents)

"""What the state maps of this library share: tensors, a cache, and one factorisation for both orientations."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Callable, Hashable
from typing import Self

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.numerics.linear_algebra import directional_derivative
from wellposed.operators.base import Operator, T, Transform
from wellposed.operators.cache import Entry, FactorisationCache, version_of
from wellposed.operators.fourier import COMPLEX


class FactorisedTransform(Transform):
    """A transform that one factorisation serves in both orientations; ``apply`` looks at ``_transposed``."""

    _transposed: bool

    @override
    def transpose(self) -> Self:
        flipped = copy.copy(self)
        flipped._transposed = not self._transposed
        return flipped

    @override
    def affine(self, state: Tensor, offset: Tensor) -> Tensor:
        return self.apply(state) + offset


class StructuredOperator(Operator):
    """A map with tensors, a shared cache, and a resolvent that one factorisation serves in both orientations.

    Args:
        cache: factorisations to share with other operators of the same layer; None for a new one.
        transposed: act as the transpose.
    """

    def __init__(self, cache: FactorisationCache | None, *, transposed: bool) -> None:
        self._cache = FactorisationCache() if cache is None else cache
        self._transposed = transposed
        self._found: tuple[list[int | None], Entry] | None = None

    @abstractmethod
    def _like(self, tensors: tuple[Tensor, ...], *, transposed: bool) -> Self:
        """The operator with other tensors and this one's cache."""

    @abstractmethod
    def _factorised(self, step: float, tensors: tuple[Tensor, ...]) -> Transform:
        """`cayley` of the upright map with these tensors."""

    @property
    def _sizes(self) -> Hashable:
        """What decides the map beside its tensors' numbers: sizes of images."""
        return self.state_shape

    @property
    @override
    def transposed(self) -> bool:
        return self._transposed

    @property
    @override
    def dtype(self) -> torch.dtype:
        first = self.tensors[0]
        return first.real.dtype if first.is_complex() else first.dtype

    @override
    def rebuild(self, tensors: tuple[Tensor, ...]) -> Self:
        return self._like(tensors, transposed=self._transposed)

    def _entry(self) -> Entry:
        tensors = self.tensors
        versions = [version_of(tensor) for tensor in tensors]
        if self._found is None or self._found[0] != versions or None in versions:
            self._found = (versions, self._cache.entry(*[tensor.detach() for tensor in tensors]))
        return self._found[1]

    @override
    def remembered(self, key: Hashable, compute: Callable[[], T], *, oriented: bool = False) -> T:
        return self._entry().remembered((key, oriented and self._transposed, self._sizes), compute)

    @override
    def affine(self, state: Tensor, offset: Tensor) -> Tensor:
        value = self.apply(state)  # in memory of its own
        alike = value.shape == offset.shape and value.dtype == offset.dtype
        if not alike or torch.is_grad_enabled() or torch._C._functorch.peek_interpreter_stack() is not None:
            return value + offset
        return value.add_(offset)  # as memory for another state takes longer to get than the sum

    @override
    def transpose(self) -> Self:
        flipped = self._like(self.tensors, transposed=not self._transposed)
        flipped._found = self._found
        return flipped

    @override
    def upright(self) -> Self:
        return self.transpose() if self._transposed else self

    @override
    def to(self, dtype: torch.dtype) -> Self:
        if dtype == self.dtype:
            return self
        return self.rebuild(tuple(part.to(COMPLEX[dtype] if part.is_complex() else dtype) for part in self.tensors))

    @override
    def cayley(self, step: float) -> Transform:
        if any(tensor.requires_grad for tensor in self.tensors) and torch.is_grad_enabled():
            transform = self._factorised(step, self.tensors)  # unrolled: keep the graph, cache nothing
        else:
            transform = self._cache.transform(
                self._entry(), (step, self._sizes), lambda *tensors: self._factorised(step, tensors)
            )
        return transform.transpose() if self._transposed else transform

    @override
    def tensor_gradients(self, cotangent: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        return torch.func.vjp(lambda *tensors: self.rebuild(tensors).apply(state), *self.tensors)[1](cotangent)

    @override
    def tensor_tangent(self, tangents: tuple[Tensor, ...], state: Tensor) -> Tensor:
        return directional_derivative(lambda *tensors: self.rebuild(tensors).apply(state), self.tensors, tangents)

    @override
    def embedding(self) -> Self | None:
        known = self.coefficients()
        if known is None:
            return None
        kept = torch.where(known.own, known.weight, known.weight.clamp_min(0.0))
        crossed = torch.where(known.own, 0.0, known.weight.clamp_max(0.0))
        weight = torch.cat([torch.cat([kept, crossed], 1), torch.cat([crossed, kept], 1)])
        return self._like((weight,), transposed=False)

    @override
    def dense(self) -> Tensor:
        size = math.prod(self.state_shape)
        identity = torch.eye(size, dtype=self.dtype, device=self.tensors[0].device)
        return self.apply(identity.reshape(size, *self.state_shape)).reshape(size, size).t()

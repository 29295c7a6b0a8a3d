"""Positive concave maps whose W is a convolution: what `wellposed.guarantee.positive` says, from applications of W alone.

No matrix of the size of the state is ever formed. With the slopes D and M = (I − DW)⁻¹D as in `wellposed.guarantee.positive`:
x ≥ D(Wx + p) ≥ 0 proves x ≥ Mp, once some v > 0 with DWv < v has proved that I − DW is an M-matrix. For p > 0 and y ≥ MᵀMp,
‖M‖₂² ≤ max y_i/p_i (Collatz & Wielandt), and iterating p ← y makes it as sharp as one likes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.errors import GuaranteeError
from wellposed.guarantee.positive import PositiveConcave
from wellposed.guarantee.sensitivity import NormProof
from wellposed.guarantee.subsolution import below
from wellposed.numerics.euclidean import euclidean
from wellposed.numerics.outward import enlarged, reduced
from wellposed.operators import Operator

_ROUNDS = 8  # of the power iteration on MᵀM
_ROOM = 1.0 + 1e-11  # for the rounding of those who check the vectors again
_CLOSE, _CLOSER = 1e-12, 1e-13  # relative changes of iterates that are taken to have settled


class PositiveConvolution(PositiveConcave):
    """Uniqueness on the nonnegative orthant, convergence of Picard's iteration, and the exact Lipschitz constant."""

    @cached_property
    def _map(self) -> Operator:
        """W in float64 on the CPU, in this orientation."""
        exact = tuple(tensor.detach().double().cpu() for tensor in self.operator.tensors)
        if not all(bool((part >= 0.0).all()) for part in exact):
            raise GuaranteeError("W: has negative or undefined entries; a positive concave map needs W ≥ 0")
        return self.operator.rebuild(exact)

    @cached_property
    def _terms(self) -> int:
        """Products in the sums of one application of W."""
        known = self._map.coefficients()
        assert known is not None
        return known.weight[0].numel()

    def _apply(self, state: Tensor, *, transposed: bool = False) -> Tensor:
        chosen = self._map.transpose() if transposed else self._map
        return chosen.apply(state[None])[0]

    @cached_property
    def floor_state(self) -> Tensor:
        """A state l ≤ σ(Wl + β') below every fixed point, shape (channels, height, width), float64."""
        upright = self._map.upright()
        floor = self._floor - self._margin

        def through(state: Tensor) -> Tensor:
            return upright.apply(state[None])[0]

        def compute() -> Tensor:
            state = torch.zeros(upright.state_shape, dtype=torch.float64, device="cpu")
            for _ in range(1000):
                image = self._activation(through(state) + floor)
                settled = bool(((image - state).abs() <= _CLOSE * image).all())
                state = image
                if settled:
                    break
            return below(through, self._terms, self._activation, floor, state)

        return self.operator.remembered(("floor", repr(self._activation), self._floor), compute)

    @cached_property
    def slopes(self) -> Tensor:
        """D, shape (channels, height, width), float64: no slope at any fixed point is larger."""
        through = self._map.upright().apply(self.floor_state[None])[0]
        least = reduced(through + self._floor - self._margin, self._terms + 4).clamp_min(0.0)
        before = torch.nextafter(least, torch.full_like(least, -1.0)).clamp_min(0.0)
        return self._activation.derivative_bound(before)

    @cached_property
    def _perron(self) -> tuple[float, Tensor]:
        """The least f found with DWv ≤ f·v for some v > 0, and that v."""

        def factor(vector: Tensor) -> float:
            return enlarged(float((self.slopes * self._apply(vector) / vector).amax()), self._terms + 3)

        def compute() -> tuple[float, Tensor]:
            own = self.floor_state.clamp_min(1e-300)  # DWl ≤ l − σ(β): a proof in exact arithmetic, for W upright
            found = (factor(own), own)
            vector = torch.ones_like(own)
            for _ in range(60):
                vector = vector + self.slopes * self._apply(vector)
                vector = vector / vector.amax()
            vector = vector.clamp_min(1e-12)
            return min(found, (factor(vector), vector), key=lambda pair: pair[0])

        key = ("Perron", repr(self._activation), self._floor)
        factor_, vector = self.operator.remembered(key, compute, oriented=True)
        if not factor_ < 1.0:
            raise GuaranteeError(
                "W: no contraction could be proved at the floor in these numbers; use float64 or a larger floor"
            )
        return factor_, vector

    @property
    def _contraction(self) -> float:
        return self._perron[0]

    def _above(self, iterate: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
        """Some x ≥ iterate(x), rounding included, for an affine increasing map with a positive constant.

        The fixed point of (1 + share)·iterate is one where the share is more than what rounding takes from any component.
        """
        state = start
        for share in (1e-12, 1e-10, 1e-8, 1e-6, 1e-3):
            for _ in range(2000):
                image = iterate(state) * (1.0 + share)
                settled = bool(((image - state).abs() <= _CLOSER * image).all())
                state = image
                if settled:
                    break
            if bool((enlarged(iterate(state), self._terms + 4) <= state).all()):
                return state
        raise GuaranteeError("W: the sensitivity could not be bounded in these numbers; use float64 or a larger floor")

    @property
    @override
    def contraction_weights(self) -> Tensor:
        return self._perron[1]

    @cached_property
    def norm_proof(self) -> NormProof:
        """The tightest proof that a few rounds of the power iteration gave."""

        def compute() -> NormProof:
            assert self._perron[0] < 1.0
            slopes, best = self.slopes, NormProof(math.inf, *[torch.ones_like(self.slopes)] * 3)
            start = torch.ones_like(slopes)
            for _ in range(_ROUNDS):
                reached = self._above(lambda x: slopes * (self._apply(x) + start * _ROOM), slopes * start)  # noqa: B023
                back = self._above(lambda w: self._apply(slopes * w, transposed=True) + reached * _ROOM, reached)  # noqa: B023
                seen = enlarged(slopes * back, 1)
                value = enlarged(float((seen / start).amax()) ** 0.5, 2)
                best = NormProof(value, start, reached, back) if value < best.value else best
                start = (seen / seen.amax()).clamp_min(1e-12)
            return best

        key = ("sensitivity", repr(self._activation), self._floor)
        return self.operator.remembered(key, compute, oriented=True)

    @cached_property
    def _norm(self) -> float:
        """Upper bound of ‖M‖₂."""
        return self.norm_proof.value

    def _propagated(self, change: Tensor) -> Tensor:
        return enlarged(self._norm * euclidean(change), 1)

"""Positive concave maps (Gabor, Piotrowski & Cavalcante 2024): W ≥ 0, σ concave and nonnegative on the positive axis.

With an offset above a floor β there is exactly one nonnegative fixed point, whatever the norm of W. Every fixed point for an
offset b ≥ β lies above l, any point with l ≤ σ(Wl + β); there σ's slopes are at most D = σ'(Wl + β), so that
|z(b) − z(b')| ≤ D(W|z(b) − z(b')| + |b − b'|) and |z(b) − z(b')| ≤ M|b − b'| with ``M = (I − DW)⁻¹D``. At l = z(β) this is the
exact Lipschitz constant, attained at b = β.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import cached_property

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.activations import Activation
from wellposed.errors import checked_fields
from wellposed.guarantee.base import Comparison, Guarantee
from wellposed.guarantee.majorant import Majorant, majorant
from wellposed.guarantee.plan import Plan
from wellposed.guarantee.sensitivity import Sensitivity
from wellposed.guarantee.subsolution import subsolution
from wellposed.guarantee.typical import TypicalConcave, spectral_radius
from wellposed.numerics.euclidean import euclidean
from wellposed.numerics.outward import enlarged, reduced
from wellposed.numerics.verified import spectral_norm_upper_bound
from wellposed.operators import Operator

_BELOW = 1e-2  # how far below its floor, relative to it, an offset may be pushed by a residual,
_ROUNDED = (
    1e-5  # and for small floors in absolute terms, so that residuals of float32 fit, but by no more than half the floor
)
_WITHIN = 1.0 - 1e-6  # a residual this much below the margin is below it for all its rounding
_FLOOR_STEPS = 8  # of Picard's iteration, whose iterates from zero are all below the fixed point at the floor
_LARGEST = 1e30  # a bound that no tolerance accepts


@checked_fields
class PositiveConcave(Sensitivity):
    """Uniqueness on the nonnegative orthant, convergence of Picard's iteration from zero, and exact sensitivity.

    Args:
        operator: W ≥ 0.
        activation: σ.
        floor: β.
        thompson: κ(β), see `wellposed.activations.concave.thompson_modulus`.
        linear: whether this is about an equation linearised at a fixed point, with slopes of at most D.
    """

    theorem = "Gabor, Piotrowski & Cavalcante 2024: positive concave map"
    lipschitz_theorem = "sensitivity (I − DW)⁻¹D at the floor"

    def __init__(
        self, operator: Operator, activation: Activation, floor: float, thompson: float, *, linear: bool = False
    ) -> None:
        self.operator = operator
        self._activation, self._floor, self._thompson, self._linear = activation, floor, thompson, linear

    @property
    @override
    def _about(self) -> Hashable:
        return repr(self._activation), self._floor

    @property
    def _margin(self) -> float:
        if self._floor == 0.0:
            return _BELOW
        return max(_BELOW * self._floor, min(0.5 * self._floor, _ROUNDED))

    @property
    def lowest_offset(self) -> float:
        """The least offset for which the promise holds, a little below the floor."""
        return self._floor - _WITHIN * self._margin

    @cached_property
    def floor_state(self) -> Tensor:
        """A point l ≤ σ(Wl + β') below every fixed point, shape (n,), float64, for β' slightly below β."""
        upright = self.operator.upright()
        key = ("floor", repr(self._activation), self._floor)
        return upright.remembered(
            key, lambda: subsolution(upright.dense(), self._activation, self._floor - self._margin)
        )

    @cached_property
    def slopes(self) -> Tensor:
        """D, shape (n,), float64: no slope at any fixed point is larger."""
        weight = self.operator.upright().dense().detach().double().cpu()
        least = reduced(torch.mv(weight, self.floor_state) + self._floor - self._margin, len(weight) + 4)
        before = torch.nextafter(least.clamp_min(0.0), torch.full_like(least, -1.0)).clamp_min(0.0)
        return self._activation.derivative_bound(before)

    @cached_property
    def majorant(self) -> Majorant:
        """The proof that I − DW is an M-matrix."""
        operator = self.operator

        def compute() -> Majorant:
            return majorant(self.slopes[:, None] * operator.dense().detach().double().cpu())

        return operator.remembered(("positive", repr(self._activation), self._floor), compute, oriented=True)

    @override
    def comparison(self) -> Comparison | None:
        stored = self.operator.matrix()
        if stored is None:
            return None
        off = self.slopes[:, None] * stored.detach().double().cpu()
        identity = torch.eye(len(off), dtype=torch.float64, device="cpu")
        proof = self.majorant
        return Comparison(proof.weights, self.slopes, (proof.sensitivity, identity - off, identity + off))

    @cached_property
    def sensitivity(self) -> Tensor:
        """Upper bound of M in every entry, shape (n, n), float64."""
        return enlarged(self.majorant.sensitivity * self.slopes, 1)

    @property
    def _contraction(self) -> float:
        """The largest weighted row sum of DW ≥ 0."""
        return self.majorant.log_norm

    @property
    def _scales(self) -> Tensor:
        return self.slopes

    @override
    def picard_plan(self) -> Plan | None:
        """Above the floor state, in the norm max |z_i|/v_i."""
        return self._plan(1.0, self._contraction)

    def error_bound(self, point: Tensor, image: Tensor) -> Tensor:
        """The smaller of the bound by M and of Banach's in the Thompson metric, |z_i − z*_i| ≤ (eᵈ − 1)z_i.

        There d ≤ κ/(1 − κ)·max |log image_i − log point_i|, which is small wherever the point is, not only at the floor.
        """
        bound = super().error_bound(point, image)
        if self._linear or self._thompson >= 1.0:  # in float64, for the smallest floors
            return bound
        step = (image.double() / point.double()).log().abs().flatten(1).amax(1)
        distance = self._thompson / (1.0 - self._thompson) * step
        relative = euclidean(image) * torch.expm1(distance)
        bound = torch.where(relative < bound, relative, bound)  # not where it is NaN, at points with zeros
        outside = (point < 0.0).flatten(1).any(1)  # of the orthant, where other fixed points may be
        return torch.where(outside, _LARGEST, bound)

    def _propagated(self, change: Tensor) -> Tensor:
        """‖M|change|‖₂ per sample, never too small."""
        return super()._moved(change)

    def _moved(self, change: Tensor) -> Tensor:
        bound = self._propagated(change)
        if self._linear:
            return bound
        pushed = change.abs().flatten(1).amax(1) if change[0].numel() else torch.zeros_like(bound)
        return torch.where(pushed <= self._margin * _WITHIN, bound, _LARGEST)

    @override
    def size_bound(self, like: Tensor, size: Tensor) -> Tensor:
        bound = super().size_bound(like, size)
        return bound if self._linear else torch.where(size <= self._margin * _WITHIN, bound, _LARGEST)

    @override
    def step_bound(self, step: Tensor, size: Tensor) -> Tensor | None:
        """``‖MW‖₂·step + ‖M‖₂·size``; steps towards the fixed point from one side come near the first."""
        if self._linear or self.operator.matrix() is None:
            return None
        pushed = self.operator.norm_upper_bound() * step + size
        bound = self._step_norm * step + self._norm * size
        return torch.where(pushed <= self._margin * _WITHIN, bound, _LARGEST)

    @cached_property
    def _step_norm(self) -> float:
        """Upper bound of ‖MW‖₂."""

        def compute() -> float:
            weight = self.operator.dense().detach().double().cpu()
            return spectral_norm_upper_bound(enlarged(self.sensitivity @ weight, len(weight)))

        return self.operator.remembered(("norm of a step", self._about), compute, oriented=True)

    @property
    def is_concave(self) -> bool:  # type: ignore[override]  # depends on what this is about
        """The map is concave and increasing: a Newton step from above the floor state lands above the fixed point.

        From there the iterates decrease to it, each an upper bound: z* − u ≤ (I − J(u))⁻¹(f(u) − u), as (I − J)⁻¹ ≥ 0.
        """
        return not self._linear

    def start(self, like: Tensor) -> Tensor | None:
        """The fixed point at the floor: below every fixed point, and above it the map contracts uniformly."""
        return None if self._linear else self.floor_state.to(like).expand_as(like)

    def project(self, state: Tensor) -> Tensor:
        """Onto the states above the floor state, where the fixed point is.

        On the rest of the nonnegative orthant slopes may be large enough to send a secant or Newton step back below zero,
        where other fixed points are.
        """
        return state if self._linear else torch.maximum(state, self.floor_state.to(state))

    @override
    def estimated(self) -> Guarantee:
        """The fixed point at the floor and the slopes there, in the precision of W."""
        upright = self.operator.upright()

        @torch.no_grad()
        def compute() -> tuple[Tensor, Tensor, float]:
            like = upright.tensors[0]
            state = torch.zeros(1, *upright.state_shape, dtype=like.dtype, device=like.device)
            floor = torch.full_like(state, self._floor)
            for _ in range(_FLOOR_STEPS):
                state = self._activation(upright.affine(state, floor))
            slopes = self._activation.derivative(upright.affine(state, floor)).clamp_min(torch.finfo(like.dtype).tiny)
            radius = spectral_radius(lambda vector: slopes * upright.apply(vector), torch.ones_like(state))
            return state[0], slopes[0].reciprocal(), radius

        key = ("typical", repr(self._activation), self._floor)
        state, gaps, radius = upright.remembered(key, compute)
        return TypicalConcave(self, self.operator, gaps, radius, None if self._linear else state)

    @override
    def linearised(self) -> PositiveConcave:
        return type(self)(self.operator, self._activation, self._floor, self._thompson, linear=True)

    @override
    def on(self, operator: Operator) -> PositiveConcave:
        return type(self)(operator, self._activation, self._floor, self._thompson, linear=self._linear)

"""Guarantees that know how far every component of an equilibrium moves: bounds of the inverse of an M-matrix."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.guarantee.base import Guarantee
from wellposed.guarantee.majorant import Majorant
from wellposed.guarantee.plan import Plan
from wellposed.numerics.brief import Brief
from wellposed.numerics.euclidean import euclidean
from wellposed.numerics.outward import REPRODUCIBLE, enlarged, unit_of
from wellposed.numerics.verified import spectral_norm_upper_bound
from wellposed.operators import Operator

_FLOOR = 1e-13  # what is added to all entries, relative to the largest: a proof needs some room where entries are tiny


@dataclass(frozen=True, eq=False, repr=False)
class NormProof(Brief):
    """Vectors that prove ‖A⁻¹D‖₂ ≤ value for an M-matrix A: start > 0, A·reach ≥ D·start, Aᵀ·back ≥ reach, D·back ≤ value²·start.

    Attributes:
        value: the bound.
        start: a vector of the shape of the state, as the next two are.
        reach: bounds what D·start moves.
        back: bounds what reach moves in the transposed equation.
    """

    value: float
    start: Tensor
    reach: Tensor
    back: Tensor


class Sensitivity(Guarantee):
    """Error bounds and convergence from a proof that |dz| ≤ G|dq| in every component.

    Attributes:
        operator: W.
    """

    operator: Operator

    @property
    @abstractmethod
    def majorant(self) -> Majorant:
        """The proof for the operator's numbers."""

    @property
    @abstractmethod
    def _about(self) -> Hashable:
        """What decides the sensitivity beside the operator's numbers."""

    @property
    def sensitivity(self) -> Tensor:
        """Upper bound of G in every entry, shape (n, n), float64."""
        return self.majorant.sensitivity

    @property
    def contraction_weights(self) -> Tensor:
        """The v > 0 of the norm max |z_i|/v_i in which iterations contract."""
        return self.majorant.weights

    @property
    def _entries(self) -> int:
        """Numbers in a state."""
        return self.contraction_weights.numel()

    def _plan(self, step: float | Tensor, factor: float) -> Plan | None:
        weights = self.contraction_weights
        distortion = math.sqrt(self._entries) * float(weights.amax() / weights.amin())
        return Plan(step, factor, distortion) if factor < 1.0 else None

    @override
    def embedded(self, operator: Operator) -> Guarantee:
        return self.on(operator)

    def _moved(self, change: Tensor) -> Tensor:
        """‖G|change|‖₂ per sample, never too small."""
        key = ("sensitivity", self._about, change.dtype, change.device)
        matrix = self.operator.remembered(key, lambda: self.sensitivity.to(change), oriented=True)
        moved = euclidean(change.abs() @ matrix.t())
        return enlarged(moved, change.shape[1] + 6, unit_of(change.dtype))

    def error_bound(self, point: Tensor, image: Tensor) -> Tensor:
        """``‖G|W(point − image)|‖₂``: image solves the equation for the offset q + W(point − image)."""
        return self._moved(self.operator.apply(point - image))

    def defect_bound(self, defect: Tensor, size: Tensor) -> Tensor:
        """``‖G|defect|‖₂``."""
        rounding = (size - euclidean(defect)).clamp_min(0.0)
        return self._moved(defect) + self._norm * rounding

    @override
    def size_bound(self, like: Tensor, size: Tensor) -> Tensor:
        return self._norm * size

    @override
    def size_factor(self, like: Tensor) -> float:
        return self._norm

    @cached_property
    def norm_proof(self) -> NormProof:
        """A proof by vectors of a bound of the sensitivity's norm, close to it where the singular vectors are positive."""
        inverse, slopes = self.majorant.sensitivity, self._scales
        start = torch.linalg.svd(self.sensitivity)[2][0].abs()
        found: NormProof | None = None
        for share in (0.0, 1e-9, 1e-6, 1e-3, 1.0):
            raised = start + share * start.amax()
            if not bool((raised > 0.0).all()):
                continue
            # The inverse is an upper bound; more of both sides covers what checking it again may round.
            reach = torch.mv(inverse, slopes * raised * REPRODUCIBLE + _FLOOR * raised.amax())
            back = torch.mv(inverse.t(), reach * REPRODUCIBLE + _FLOOR * reach.amax())
            value = enlarged(float((slopes * back / raised).amax().sqrt()), 3)
            if found is None or value < found.value:
                found = NormProof(value, raised, reach, back)
        assert found is not None
        return found

    @property
    def _scales(self) -> Tensor:
        """D: what the offset is multiplied with."""
        return torch.ones_like(self.majorant.weights)

    @cached_property
    def _norm(self) -> float:
        key = ("norm of the sensitivity", self._about)
        return self.operator.remembered(key, lambda: spectral_norm_upper_bound(self.sensitivity), oriented=True)

    @override
    def offset_lipschitz(self) -> float:
        return self._norm

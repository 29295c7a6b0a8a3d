"""Strong monotonicity of maps that convolve circularly, proved frequency by frequency."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.errors import GuaranteeError, InputError
from wellposed.guarantee.base import Plan
from wellposed.guarantee.monotone import StronglyMonotone
from wellposed.numerics.convolution_norms import least_eigenvalues
from wellposed.numerics.euclidean import euclidean
from wellposed.numerics.outward import rounding_constant
from wellposed.operators.base import Operator
from wellposed.operators.circular import Circular
from wellposed.operators.multi_scale import MultiScale
from wellposed.operators.scaled_circular import ScaledCircular


class FrequencywiseMonotone(StronglyMonotone):
    """Strong monotonicity with a constant that is proved at every stored frequency, when it is needed.

    Frequencies that are their own mirror images count with the mean of what is stored for both, which is no smaller.
    """

    def __init__(self, operator: Operator) -> None:
        self.operator = operator

    @abstractmethod
    def gaps(self) -> list[tuple[Tensor, float]]:
        """Matrices, complex128 of shape (frequencies, n, n), whose Hermitian parts bound that of I − W from below, and errors."""

    @cached_property
    def m(self) -> float:  # type: ignore[override]  # on demand: it needs numbers, not graph tensors
        """The least eigenvalue of the Hermitian parts, from below."""
        if not all(bool(torch.isfinite(torch.abs(tensor)).all()) for tensor in self.operator.tensors):
            raise InputError("W: has NaN or infinite entries, for which nothing is promised")
        proved = self.operator.remembered(
            ("monotonicity", type(self)),
            lambda: min(float(least_eigenvalues(matrices).amin()) - error for matrices, error in self.gaps()),
        )
        if not proved > 0.0:
            raise GuaranteeError(
                f"W: I − W is not monotone in these numbers (proved only {proved:.3g}): lost to rounding at these weights; "
                "use float64, a larger margin, or smaller weights"
            )
        return proved

    @property
    def smoothness(self) -> float:  # cheaper for a convolution
        """Upper bound of ‖I − W‖₂."""
        return 1.0 + self.operator.norm_upper_bound()

    def offset_lipschitz(self) -> float:
        """1/m."""
        return 1.0 / self.m * (1.0 + 1e-15)

    def on(self, operator: Operator) -> Self:
        """The transpose, and float64 copies, have the same constant."""
        found = type(self)(operator)
        if "m" in self.__dict__:
            found.__dict__["m"] = self.m
        return found


def displacement(transfer: Tensor) -> tuple[Tensor, float]:
    """I − T at every stored frequency, shape (frequencies, n, n), complex128 on the CPU, and its rounding error."""
    stored = transfer.detach().to("cpu", torch.complex128).flatten(0, 1)
    identity = torch.eye(stored.shape[-1], dtype=stored.dtype)
    return identity - stored, 2.0**-52 * (1.0 + float(stored.abs().sum(2).amax()))


class CircularStronglyMonotone(FrequencywiseMonotone):
    """Of one circular convolution."""

    theorem = "Winston & Kolter 2020, Theorem 1, for a circular convolution"

    def gaps(self) -> list[tuple[Tensor, float]]:
        """I − T."""
        assert isinstance(self.operator, Circular)
        return [displacement(self.operator.tensors[0])]


class MultiScaleStronglyMonotone(FrequencywiseMonotone):
    """Of a block lower triangular map, for which ``I − W = R + AᵀA + skew`` with A block lower bidiagonal.

    With A_i = −½L_iᵀ on the diagonal of A (zero for the first tier) and E D_i below it, AᵀA has the same blocks beside the
    diagonal as the symmetric part of I − W. What remains is block diagonal: R_i = I − T_i − A_iᵀA_i.
    """

    theorem = "Winston & Kolter 2020, Theorem 1, for convolutions on several scales"

    def gaps(self) -> list[tuple[Tensor, float]]:
        """R_i of every tier."""
        assert isinstance(self.operator, MultiScale)
        found = [displacement(self.operator.own[0])]
        for own, into in zip(self.operator.own[1:], self.operator.into, strict=True):
            matrices, error = displacement(own)
            half = 0.5 * into.detach().to("cpu", torch.complex128).flatten(0, 1)
            energy = float(half.abs().square().sum((1, 2)).amax())
            found.append((matrices - half @ half.mH, 2.0 * error + rounding_constant(4 * half.shape[-1] + 16) * energy))
        return found


class ScaledStronglyMonotone(FrequencywiseMonotone):
    """Of ``Λ(I − W) = C + GᵀG`` in the ordinary inner product, for Λ as it is in a `ScaledCircular`.

    The equation is 0 ∈ Λ(I − W)z − Λq + Λ∂f(z), and Λ∂f is monotone too, as f is a sum over coordinates. GᵀG only adds to m.
    For the adjoint equation, Λ⁻¹ times its solution solves one of the same kind.
    """

    theorem = "Revay, Wang & Manchester 2020, Theorem 1: splitting with steps in proportion to a diagonal metric"
    lipschitz_theorem = "strong monotonicity of Λ(I − W): max Λ/m"

    @property
    def _operator(self) -> ScaledCircular:
        assert isinstance(self.operator, ScaledCircular)
        return self.operator

    def gaps(self) -> list[tuple[Tensor, float]]:
        """C."""
        return [(self._operator.transfer.detach().to("cpu", torch.complex128).flatten(0, 1), 0.0)]

    @property
    def smoothness(self) -> float:
        """Upper bound of ‖Λ(I − W)‖₂."""
        return self._operator.core_norm()

    @cached_property
    def _extremes(self) -> tuple[float, float]:
        """Smallest and largest Λ."""
        scale = self._operator.scale.detach().double()
        if not bool((torch.isfinite(scale) & (scale > 0.0)).all()):
            raise InputError(
                "psi: its exponential is not positive and finite in this dtype; nothing is promised for it"
            )
        return 1.0 / float(scale.amax()) * (1.0 - 1e-15), 1.0 / float(scale.amin()) * (1.0 + 1e-15)

    @cached_property
    def _distortion(self) -> float:
        """Plans are about ‖·‖₂ and, for the adjoint equation, about ‖Λ⁻¹·‖₂."""
        least, largest = self._extremes
        return largest / least if self._operator.transposed else 1.0

    @override
    def forward_backward_plan(self, step: float | None = None) -> Plan | None:
        """Steps are times Λ."""
        found = super().forward_backward_plan(step)
        return None if found is None else replace(found, step=found.step * self._operator.scaling.detach())

    @override
    def suggested_step(self) -> float:
        """One over the typical singular value of Λ(I − W)."""
        return 1.0 / max(self._operator.core_norm_estimate(), self.m)

    def error_bound(self, point: Tensor, image: Tensor) -> Tensor:
        """That of a defect: ``image`` solves the equation exactly for q + W(point − image)."""
        defect = self.operator.apply(point - image)
        return self.defect_bound(defect, euclidean(defect))

    def defect_bound(self, defect: Tensor, size: Tensor) -> Tensor:
        """``‖Λ·defect‖₂/m``, and ``max Λ·‖defect‖₂/m`` for the adjoint equation."""
        largest = self._extremes[1]
        if self._operator.transposed:
            return size * largest / self.m
        rounding = (size - euclidean(defect)).clamp_min(0.0)
        weighed = euclidean(defect * self._operator.scaling) * (1.0 + 4.0 * torch.finfo(defect.dtype).eps)
        return (weighed + largest * rounding) / self.m

    def offset_lipschitz(self) -> float:
        """Max Λ/m."""
        return self._extremes[1] / self.m * (1.0 + 1e-15)

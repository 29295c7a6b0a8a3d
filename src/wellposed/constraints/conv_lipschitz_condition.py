"""The least Lipschitz bound that is proved for the stored numbers of a convolutional map (Revay et al. 2020, Condition 2)."""

from __future__ import annotations

import torch
from torch import Tensor

from wellposed.errors import GuaranteeError, InputError
from wellposed.numerics.convolution_norms import least_eigenvalues
from wellposed.numerics.outward import UNIT, enlarged, enlarged_norm, error_of, rounding_constant
from wellposed.operators.scaled_circular import ScaledCircular

_TRANSFORMED = 1e-13  # far above what a kernel's transform errs by, relative to the energy at a frequency
_CONSTANT = 1e-300  # the bound of a constant map; zero would invite division

# By how much γ is taken larger than in exact arithmetic, so that the inequality is proved
# in spite of rounding; and for s half of it.
_GAMMA, _HALF_WAY = 1.0 + 1e-10, 1.0 + 5e-11


@torch.no_grad()
def proved_conv_lipschitz(operator: ScaledCircular, driven: Tensor, seen: Tensor) -> float:
    """The least γ, close to it, for which Condition 2 is proved for stored numbers in a multiple s of the metric Λ.

    With G = κF up to rounding, F the operator's own factor, the condition ``2s(C + FᵀF) ⪰ GᵀG/γ + s²ŨŨᵀ/γ`` holds if
    2sγ ≥ κ² and 2sγ·C ⪰ s²·ŨŨᵀ at every frequency. With τ the least number for which 2τC ⪰ ŨŨᵀ, γ = κ√(τ/2).

    Args:
        operator: W.
        driven: transfer function of Ũ as it runs, (height, width//2 + 1, channels, inputs).
        seen: G as it runs, shape (outputs, channels, height, width).

    Raises:
        GuaranteeError: none could be proved.
    """
    if operator.driven is not None:
        return _proved_around(operator, operator.driven, driven, seen)
    _check_numbers(operator, seen)
    core = operator.transfer.to("cpu", torch.complex128).flatten(0, 1)
    core = core + core.mH
    through = driven.to("cpu", torch.complex128).flatten(0, 1)
    gram = through @ through.mH
    # Of a product, and of the kernel's transform, relative to the energy at a frequency.
    energy = float(through.abs().square().sum((1, 2)).amax()) * (
        rounding_constant(4 * through.shape[2] + 16) + _TRANSFORMED
    )
    if not bool(seen.any()) or not bool(through.any()):
        return _CONSTANT
    square, rest = _multiple(seen, operator)
    values, vectors = torch.linalg.eigh(core)
    if float(values.amin()) <= 0.0:
        raise GuaranteeError("W: the symmetric part of its convolution is not positive definite in these numbers")
    root = vectors / values.sqrt()[:, None, :]
    tau = float(torch.linalg.eigvalsh(root.mH @ gram @ root)[:, -1].amax())
    slack = 1e-10
    while slack < 1.0:
        gamma = (max(0.5 * square * tau, 1e-300)) ** 0.5 * (1.0 + slack)
        s = 0.5 * square / gamma * (1.0 + 0.5 * slack)
        # Divided by s: 2C − (s/γ)·ŨŨᵀ − rest/(sγ) ⪰ 0.
        least = float(least_eigenvalues(core - (s / gamma) * gram).amin())
        magnitude = float(core.abs().sum(2).amax())
        if least > s / gamma * energy + rest / (s * gamma) + 8.0 * UNIT * magnitude:
            return enlarged(gamma, 4)
        slack *= 4.0
    raise GuaranteeError("W: no Lipschitz bound could be proved at these weights; use float64")


def _proved_around(operator: ScaledCircular, driving: Tensor, driven: Tensor, seen: Tensor) -> float:
    """The least γ for U = Ũ: with R the operator's own convolution ``driving``, ``2s(C + FᵀF + ΛRRᵀΛ) ⪰ GᵀG/γ + s²ΛŨŨᵀΛ/γ``.

    For Ũ = κ'R up to rounding it holds with s = κ²/(2γ) and γ = κκ'/2, and what rounding takes is made up for by 2sC.
    """
    scale = _check_numbers(operator, seen)
    core = operator.transfer.to("cpu", torch.complex128).flatten(0, 1)
    core = core + core.mH
    own, through = (part.to("cpu", torch.complex128).flatten(0, 1) for part in (driving, driven))
    if not bool(seen.any()) or not bool(through.any()):
        return _CONSTANT
    square, rest = _multiple(seen, operator)
    ratio = float((through * own.conj()).real.sum()) / float(own.abs().square().sum())
    if not ratio > 0.0:
        raise GuaranteeError("U: not the convolution that W was made with")
    gamma = (0.25 * square * ratio * ratio) ** 0.5 * _GAMMA
    s = 0.5 * square / gamma * _HALF_WAY
    room = least_eigenvalues(2.0 * (own @ own.mH) - (s / gamma) * (through @ through.mH)).amin()
    energy = float((2.0 * own.abs().square() + (s / gamma) * through.abs().square()).sum((1, 2)).amax())
    short = energy * (rounding_constant(4 * own.shape[2] + 16) + _TRANSFORMED) - min(float(room), 0.0)
    least = float(least_eigenvalues(core).amin()) - 8.0 * UNIT * float(core.abs().sum(2).amax())
    around = enlarged(short / float(scale.amin()) ** 2, 3)
    if least > around + rest / (s * gamma):
        return enlarged(gamma, 4)
    raise GuaranteeError("W: no Lipschitz bound could be proved at these weights; use float64")


def _check_numbers(operator: ScaledCircular, seen: Tensor) -> Tensor:
    """Ψ in float64."""
    assert operator.factor is not None
    scale = operator.scale.double().cpu()
    finite = all(bool(torch.isfinite(part).all()) for part in (scale, operator.factor, seen))
    if not finite or not bool((scale > 0.0).all()):
        raise InputError("psi, output: not finite, or a metric that is not positive; nothing can be certified for them")
    return scale


def _multiple(seen: Tensor, operator: ScaledCircular) -> tuple[float, float]:
    """A q and an r with GᵀG ⪯ q·FᵀF + r, F the operator's own factor, of which G nearly is a multiple.

    With G = κF + E they are (1 + t)κ² and (1 + 1/t)‖E‖² for t = ‖E‖/(κ‖F‖).
    """
    assert operator.factor is not None
    factor, output = operator.factor.double().cpu(), seen.double().cpu()
    size = float(factor.norm())
    ratio = float((output * factor).sum()) / max(size * size, 1e-300)
    missed = enlarged_norm(float((output - ratio * factor).norm()), factor.numel() + 1) + error_of(abs(ratio) * size, 3)
    looseness = missed / max(ratio * size, 1e-300)
    return (1.0 + looseness) * ratio * ratio, missed * (missed + ratio * size)

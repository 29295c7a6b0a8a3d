"""PAC-Bayes bounds of explicit networks and of unrolled ones, to compare with that of equilibrium networks.

Both are about networks without biases, perturb every weight by Gaussian noise of one deviation, and use Lemma 1 of Neyshabur et
al. (2018): L₀ ≤ L̂_γ + 4·√((KL + ln(6M·N/δ))/(M − 1)) with N members of a cover of the unknown norm β.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from wellposed.errors import check, check_number, choices
from wellposed.numerics.verified import spectral_norm_upper_bound

VERSIONS = ("published", "repaired")


def neyshabur_log10(
    weights: Sequence[Tensor], samples: int, *, radius: float, gamma: float, delta: float, version: str = "published"
) -> float:
    """Decimal logarithm of the complexity of a ReLU network without biases (Neyshabur, Bhojanapalli & Srebro 2018, Theorem 1).

    All layers are rescaled to the geometric mean β of their norms, the noise has σ = γ/(4e²dBβ^(d−1)·√(2h ln(4dh))), and
    KL = Σ‖W_i‖_F²/(2σ²). For β̃ in the place of β, at most (1 + 1/d)β, powers are at most e times as large.

    Args:
        weights: of the layers in order.
        samples: M.
        radius: B, bound on the Euclidean norm of inputs.
        gamma: margin.
        delta: probability of failure.
        version: ``"published"``, where h is the largest number of units, inputs left out, though noise in the first layer is as
            large as the inputs are many; ``"repaired"``, where h is the largest dimension.
    """
    choices("version", version, VERSIONS)
    _check(samples, radius, gamma, delta)
    check(len(weights) >= 1, "weights", len(weights), "needs at least one layer")
    norms = [spectral_norm_upper_bound(weight.detach().double()) for weight in weights]
    check(min(norms) > 0.0, "weights", min(norms), "a layer is zero, and so is the network")
    depth = len(weights)
    width = max(len(weight) for weight in weights)
    if version == "repaired":
        width = max(width, *(weight.shape[1] for weight in weights))
    ratios = sum(float(w.detach().double().square().sum()) / n**2 for w, n in zip(weights, norms, strict=True))
    log_power = sum(math.log(norm) for norm in norms)  # ln β^d, with one factor from Σ‖W_i‖_F² = β²·Σ‖W_i‖_F²/‖W_i‖²
    log_inverse = math.log(4.0 * math.e**2 * depth * radius / gamma) + 0.5 * math.log(
        2.0 * width * math.log(4.0 * depth * width)
    )
    log_kl = math.log(ratios / 2.0) + 2.0 * (1.0 + log_power + log_inverse)
    return _log10_complexity(log_kl, math.log(depth) + math.log(samples) / (2.0 * depth), samples, delta)


def unrolled_log10(
    spectral: tuple[float, float, float, float], squared_frobenius: float, width: int, samples: int, *, depth: int, step: float,
    radius: float, gamma: float, delta: float,
) -> float:  # fmt: skip
    """Decimal logarithm of the complexity of unrolled forward–backward iterations (Pabbaraju et al. 2021, Appendix E).

    The appendix's σ is taken with β̃ = β, the member of the cover for which it is largest.

    Args:
        spectral: norms of A, B, of the unrolled hidden layer W_u, and of W_o.
        squared_frobenius: sum of the squared Frobenius norms of A, B, U and W_o.
        width: h, size of the state.
        samples: M.
        depth: d, number of iterations.
        step: α.
        radius: B, bound on the Euclidean norm of inputs.
        gamma: margin.
        delta: probability of failure.
    """
    _check(samples, radius, gamma, delta)
    check(depth >= 2, "depth", depth, "must be at least two")
    check_number("step", step, 0.0, math.inf, "must be positive and finite")
    beta = max(spectral)
    check_number("spectral", beta, 0.0, math.inf, "norms must be positive and finite")
    moved = (depth - 1) * step * (math.e * beta / depth + 2.0 * math.e * beta + 3.0) + 1.0
    log_inverse = (
        math.log(4.0 * math.e**2 * radius / gamma) + (depth - 1) * math.log(beta) + math.log(moved)
        + 0.5 * math.log(2.0 * width * math.log(16.0 * width))
    )  # fmt: skip
    log_kl = math.log(squared_frobenius / 2.0) + 2.0 * log_inverse
    return _log10_complexity(log_kl, math.log(depth) + math.log(samples) / (2.0 * depth), samples, delta)


def _check(samples: int, radius: float, gamma: float, delta: float) -> None:
    check(samples >= 2, "samples", samples, "needs at least two samples")
    check_number("radius", radius, 0.0, math.inf, "must be positive and finite")
    check_number("gamma", gamma, 0.0, math.inf, "must be positive and finite")
    check_number("delta", delta, 0.0, 1.0, "must lie in (0, 1)")


def _log10_complexity(log_kl: float, log_members: float, samples: int, delta: float) -> float:
    """log₁₀ of 4·√((KL + ln(6M·N/δ))/(M − 1)), where KL itself may be too large for a number."""
    rest = math.log(6.0 * samples / delta) + log_members
    total = max(log_kl, math.log(rest)) + math.log1p(math.exp(-abs(log_kl - math.log(rest))))
    return (math.log(4.0) + 0.5 * (total - math.log(samples - 1))) / math.log(10.0)

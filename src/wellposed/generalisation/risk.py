"""Risk certificates of stochastic networks: PAC-Bayes in the form of a binary relative entropy, evaluated by sampling.

For a prior P chosen without the n samples S, with probability 1 − δ over S every posterior Q has ``kl(r_S(Q) ‖ r(Q)) ≤
(KL(Q ‖ P) + ln(2√n/δ))/n`` (Maurer 2004, after Langford & Seeger). r_S(Q) is itself estimated from draws of Q, at the price of
another δ' (Langford & Caruana 2002).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.errors import InputError, check
from wellposed.numerics.outward import enlarged, enlarged_sum, next_up, rounding_constant


@dataclass(frozen=True)
class RiskCertificate:
    """A bound on the probability that the network, with weights drawn from Q, misclassifies.

    Attributes:
        value: with probability at least ``1 − delta`` over the samples and the draws.
        empirical: mean error of the draws on the samples.
        empirical_bound: bound of r_S(Q), the mean over all draws.
        kl: KL(Q ‖ P), nats.
        samples: n.
        draws: of weights.
        delta: total probability of failure.
    """

    value: float
    empirical: float
    empirical_bound: float
    kl: float
    samples: int
    draws: int
    delta: float


def risk_certificate(
    errors: Tensor, kl: float, samples: int, *, delta: float = 0.05, share: float = 0.2
) -> RiskCertificate:
    """Combine draws and divergence to a certificate.

    Args:
        errors: one number in [0, 1] per independent draw of the weights: the error rate on samples of S, drawn anew and uniformly
            for every draw, or on all of S; shape (draws,).
        kl: KL(Q ‖ P).
        samples: n, none of which P depends on.
        delta: total probability of failure.
        share: of it that is spent on the draws.
    """
    check(0.0 < delta < 1.0, "delta", delta, "must lie in (0, 1)")
    check(0.0 < share < 1.0, "share", share, "must lie in (0, 1)")
    check(kl >= 0.0, "kl", kl, "must not be negative or NaN")
    check(samples >= 1, "samples", samples, "must be positive")
    if errors.ndim != 1 or not errors.numel() or not bool(((errors >= 0.0) & (errors <= 1.0)).all()):
        raise InputError(f"errors: shape {tuple(errors.shape)}; needs one number in [0, 1] per draw")
    draws = errors.numel()
    empirical = float(errors.double().mean())
    # Logarithms of numbers above two: what rounds in their arguments counts less than twice in them.
    observed = min(enlarged_sum(empirical, draws + 1), 1.0)
    mean_bound = kl_inverse(observed, enlarged(math.log(2.0 / (delta * share)) / draws, 8))
    budget = enlarged((kl + math.log(2.0 * math.sqrt(samples) / (delta * (1.0 - share)))) / samples, 16)
    return RiskCertificate(kl_inverse(mean_bound, budget), empirical, mean_bound, kl, samples, draws, delta)


def binary_kl(q: float, p: float) -> float:
    """kl(q ‖ p) of two Bernoulli distributions."""
    return max(sum(_terms(q, p)), 0.0)


def _terms(q: float, p: float) -> list[float]:
    """The terms of kl(q ‖ p)."""
    pairs = ((a, b) for a, b in ((q, p), (1.0 - q, 1.0 - p)) if a > 0.0)
    return [math.inf if b <= 0.0 else a * math.log(a / b) for a, b in pairs]


def kl_inverse(q: float, budget: float) -> float:
    """The largest p with kl(q ‖ p) ≤ budget, rounded up.

    A term a·log(a/b) errs by at most a(3u + 6u|log(a/b)|), where logarithms err by up to four units.
    """
    check(0.0 <= q <= 1.0, "q", q, "must lie in [0, 1]")
    check(budget >= 0.0, "budget", budget, "must not be negative or NaN")
    low, high = q, 1.0
    for _ in range(100):
        middle = 0.5 * (low + high)
        terms = _terms(q, middle)
        least = sum(terms) - rounding_constant(9) * (1.0 + sum(map(abs, terms)))
        low, high = (middle, high) if least <= budget else (low, middle)
    return high


def gaussian_kl(mean: Tensor, log_std: Tensor, prior_mean: Tensor, prior_log_std: Tensor) -> Tensor:
    """KL of two Gaussians with diagonal covariances, summed over all entries; with its graph."""
    ratio, moved = _ratio_and_moved(mean, log_std, prior_mean, prior_log_std)
    return 0.5 * (torch.exp(ratio) + moved - 1.0 - ratio).sum()


@torch.no_grad()
def gaussian_kl_upper_bound(mean: Tensor, log_std: Tensor, prior_mean: Tensor, prior_log_std: Tensor) -> float:
    """At least the KL of two Gaussians with diagonal covariances, for the stored numbers; all of them float64.

    With r = 2(log σ − log σ₀) and M = ((μ − μ₀)/σ₀)², a term e^r + M − 1 − r has a rounding error of at most
    (|r| + 5)u·e^r + 13u·M + u|r| of its parts, where exponentials err by up to four units, and three sums of at most
    e^r + M + 1 + |r|: together less than 16u((1 + |r|)e^r + M + 1 + |r|). Terms are added up exactly.
    """
    ratio, moved = _ratio_and_moved(mean, log_std, prior_mean, prior_log_std)
    grown, size = torch.exp(ratio), ratio.abs()
    value = math.fsum((grown + moved - 1.0 - ratio).flatten().tolist())
    parts = float(((1.0 + size) * grown + moved + 1.0 + size).sum())
    return 0.5 * next_up(next_up(value) + enlarged_sum(parts, 4 * ratio.numel()) * rounding_constant(17))


def _ratio_and_moved(mean: Tensor, log_std: Tensor, prior_mean: Tensor, prior_log_std: Tensor) -> tuple[Tensor, Tensor]:
    """2 log(σ/σ₀), and ((μ − μ₀)/σ₀)²."""
    return 2.0 * (log_std - prior_log_std), ((mean - prior_mean) * torch.exp(-prior_log_std)).square()

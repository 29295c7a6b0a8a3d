"""Theorem 3 of Pabbaraju, Winston & Kolter (2021), tightened: the same derandomised margin bound with less given away.

Gaussian noise of deviation σ_k on each of the six blocks A, B, U, b, W_o, b_o; on the event, of probability p, that the noise of
every block stays below its tail, no margin moves by more than γ/2 (Theorem 2, and ‖z*‖ ≤ (‖U‖B + ‖b‖)/m). The posterior given
that event has a divergence of at most (KL + H(p))/p, and Maurer's inequality bounds the risk. What is gained:

- every block has its own norm and its own σ_k, instead of the largest norm and one σ; a union bound over a grid pays for that;
- B enters through its skew part alone, which is no larger;
- a margin moves by at most √2 times the Euclidean change of the output;
- p is chosen, instead of ½, and the relative entropy is inverted, instead of Pinsker's inequality with factor four.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from wellposed.generalisation.risk import kl_inverse
from wellposed.numerics.golden_section import golden_section

Sigmas = tuple[float, ...]
_STEP = math.log(1.01)  # of the grid of deviations, in logarithms


@dataclass(frozen=True, kw_only=True)
class Norms:
    """Sizes and norms of the blocks of ``W_o·z*(x) + b_o``.

    Attributes:
        width: h, size of the state.
        in_features: of the layer.
        classes: outputs.
        m: strong-monotonicity constant.
        spectral: ‖A‖₂, ‖U‖₂, ‖b‖, ‖W_o‖₂.
        squares: squared Frobenius norms of A, the skew part of B, U, b, W_o and b_o.
    """

    width: int
    in_features: int
    classes: int
    m: float
    spectral: tuple[float, float, float, float]
    squares: tuple[float, float, float, float, float, float]


def tightened(norms: Norms, loss: float, samples: int, *, radius: float, gamma: float, delta: float) -> float:
    """The bound on the expected zero-one loss; above one, what Pinsker's inequality would give, to show trends.

    Args:
        norms: of the trained network.
        loss: fraction of the samples with margin at most γ.
        samples: M, at least 8.
        radius: bound on the norm of the layer's input.
        gamma: γ.
        delta: probability of failure.
    """
    best = golden_section(lambda tail: _budget(norms, samples, radius, gamma, delta, tail), 2.0, 8.0, 1e-3)
    budget = _budget(norms, samples, radius, gamma, delta, best)
    return loss + math.sqrt(0.5 * budget) if budget >= 2.0 else kl_inverse(loss, budget)


def _budget(norms: Norms, samples: int, radius: float, gamma: float, delta: float, tail: float) -> float:
    """(KL + ln(2√M/δ))/M for the conditioned posterior, the grid paid for."""
    sigmas, members = on_grid(deviations(norms, radius, gamma, tail))
    kl = sum(square / (2.0 * sigma**2) for square, sigma in zip(norms.squares, sigmas, strict=True))
    outside = 6.0 * math.exp(-0.5 * tail * tail)
    inside = 1.0 - outside
    entropy = -inside * math.log(inside) - outside * math.log(outside)
    cost = sum(math.log(math.pi**2 / 3.0 * (member + 1) ** 2) for member in members)
    return ((kl + entropy) / inside + cost + math.log(2.0 * math.sqrt(samples) / delta)) / samples


def tails(norms: Norms, sigmas: Sigmas, tail: float) -> Sigmas:
    """What the noise of A, B, U, b, W_o and b_o stays below, each with probability 1 − exp(−tail²/2)."""
    h, d, k = (math.sqrt(size) for size in (norms.width, norms.in_features, norms.classes))
    sizes = (2.0 * h, 2.0 * h, h + d, h, h + k, k)
    return tuple(sigma * (size + tail) for sigma, size in zip(sigmas, sizes, strict=True))


def output_change(norms: Norms, noise: Sigmas, radius: float) -> float:
    """Bound on the Euclidean change of the output at any input, for noise of these norms."""
    a, b, u, shift, o, o_shift = noise
    whole, driven, bias, head = norms.spectral
    state = (driven * radius + bias) / norms.m
    moved = (2.0 * whole * a + a * a + 2.0 * b) * state / norms.m + (u * radius + shift) / norms.m
    return (head + o) * moved + o * state + o_shift


def deviations(norms: Norms, radius: float, gamma: float, tail: float) -> Sigmas:
    """Deviations that move no margin by more than γ/2 within their tails, with nearly the least divergence.

    Linearised, Σ F_k/(2σ_k²) under Σ c_kσ_k ≤ limit is least for σ_k in proportion to (F_k/c_k)^⅓.
    """
    limit = gamma / (2.0 * math.sqrt(2.0))

    def change(sigmas: Sigmas) -> float:
        return output_change(norms, tails(norms, sigmas, tail), radius)

    floor = 1e-6 * sum(norms.squares)
    sigmas: Sigmas = (1e-12,) * 6
    for _ in range(20):
        per_sigma = tails(norms, (1.0,) * 6, tail)
        rates = [
            rate * size for rate, size in zip(_rates(norms, tails(norms, sigmas, tail), radius), per_sigma, strict=True)
        ]
        ratios = [(max(square, floor) / rate) ** (1.0 / 3.0) for square, rate in zip(norms.squares, rates, strict=True)]
        low, high = 0.0, limit / min(rate * ratio for rate, ratio in zip(rates, ratios, strict=True))
        for _ in range(100):
            middle = 0.5 * (low + high)
            fits = change(tuple(middle * ratio for ratio in ratios)) <= limit
            low, high = (middle, high) if fits else (low, middle)
        sigmas = tuple(low * ratio for ratio in ratios)
    return sigmas


def _rates(norms: Norms, noise: Sigmas, radius: float) -> Sigmas:
    """Derivatives of `output_change` by the norms of the noise; none is taken for zero."""
    a, b, u, shift, o, _ = noise
    whole, driven, bias, head = norms.spectral
    state, seen = (driven * radius + bias) / norms.m, (head + o) / norms.m
    moved = (2.0 * whole * a + a * a + 2.0 * b) * state / norms.m + (u * radius + shift) / norms.m
    rates = (2.0 * (whole + a) * seen * state, 2.0 * seen * state, seen * radius, seen, moved + state, 1.0)
    return tuple(max(rate, 1e-9 * max(rates)) for rate in rates)


def on_grid(sigmas: Sigmas) -> tuple[Sigmas, tuple[int, ...]]:
    """The next smaller members of the grid, which no data decide, and how far from one they are."""
    places = [math.ceil(-math.log(sigma) / _STEP) for sigma in sigmas]
    return tuple(math.exp(-_STEP * place) for place in places), tuple(abs(place) for place in places)

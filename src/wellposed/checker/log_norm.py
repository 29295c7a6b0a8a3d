"""W with μ_∞,η(W) ≤ μ: off its diagonal T in the weights η, and on it what the sums of its rows leave (Jafarpour et al. 2021)."""

import numpy as np

from .case import Getter
from .proofs import Array

ROLES = {"T", "slack", "log_weights", "_extra_state"}


def weight(get: Getter, output: bool) -> tuple[Array, Array]:
    """W from the free parameters, in float64, and how many units in the last place each entry may be off."""
    free, slack, weights = get("constraint.T"), get("constraint.slack"), get("constraint.log_weights")
    free = free * (1.0 - np.eye(len(free)))
    mu, sums, softplus = float(get("constraint._extra_state")), np.abs(free).sum(1), np.logaddexp(slack, 0.0)
    scaled = free * np.exp(weights[:, None] - weights)
    # The exponents round relative to their own size.
    spread = 8.0 + np.abs(weights[:, None]) + np.abs(weights)
    off = spread * np.abs(scaled) + np.diag((len(free) + 8.0) * sums + 8.0 * (abs(mu) + softplus))
    return scaled + np.diag(mu - sums - softplus), off

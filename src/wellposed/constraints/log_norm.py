"""A bound on the weighted ℓ∞ log norm (Jafarpour, Davydov, Proskurnikov & Bullo 2021).

``W = [η]T[η]⁻¹`` off the diagonal and ``W_ii = μ − Σ_j≠i |T_ij| − softplus(a_i)`` on it, so that
``μ_∞,η(W) = max_i (W_ii + Σ_j≠i |W_ij| η_j/η_i) ≤ μ < 1``; every W with that log norm below μ arises. The published
formula takes the slack from T's own diagonal, where half of all rows start with no gradient; here it has its own parameter.

For activations with slopes in [a, b], a < 0, each row is then multiplied by the largest t ≤ 1 for which
``|a|(Σ_j≠i |T_ij| − W_ii)t < 1`` holds as well; bμ < 1 is needed of μ.
"""

from __future__ import annotations

import math
from collections.abc import Hashable

import torch
from torch import Tensor, nn
from typing_extensions import override

from wellposed.activations import Activation
from wellposed.constraints.base import Constraint, SavedNumber, check_size
from wellposed.constraints.factorisations import factorisation_cache
from wellposed.errors import InputError, check
from wellposed.guarantee.componentwise import Componentwise
from wellposed.numerics.linear_algebra import full_precision
from wellposed.operators.dense import Dense

_STEEPEST = 0.95  # largest value of |a|(Σ|T_ij| − W_ii), for negative slopes


class LogNorm(SavedNumber, Constraint):
    """Free parameters T of shape (n, n), whose diagonal is unused, a of shape (n,) and log η of shape (n,).

    Args:
        state_features: n.
        mu: the bound, below one (below 1/b, for slopes up to b); smaller is smoother. Saved with the weights.
        slopes: least and largest slope of the activation, [a, b].
    """

    needs_monotone = False

    saved = "mu"

    def __init__(
        self,
        state_features: int,
        mu: float = 0.0,
        *,
        slopes: tuple[float, float] = (0.0, 1.0),
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_size(state_features)
        check(isinstance(mu, int | float) and -math.inf < mu < 1.0, "mu", mu, "must be finite and below one")
        check(mu * slopes[1] < 1.0, "mu", mu, f"must be below {1.0 / max(slopes[1], 1e-300):.6g} for this activation")
        self.mu = float(mu)
        self._slopes = slopes
        self.T = nn.Parameter(torch.empty(state_features, state_features, device=device, dtype=dtype))
        self.slack = nn.Parameter(torch.empty(state_features, device=device, dtype=dtype))
        self.log_weights = nn.Parameter(torch.empty(state_features, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Small T: row sums of absolute values near 0.16·√n, far below what the usual initialisation gives."""
        nn.init.normal_(self.T, std=0.2 / self.T.shape[0] ** 0.5)
        nn.init.constant_(self.slack, -4.0)
        nn.init.zeros_(self.log_weights)

    @property
    @override
    def state_features(self) -> int:
        return self.T.shape[0]

    @override
    def materialise(self) -> tuple[Dense, Componentwise]:
        with full_precision(self.T.device):
            free = self.T * (1.0 - torch.eye(self.T.shape[0], dtype=self.T.dtype, device=self.T.device))
            diagonal = self.mu - free.abs().sum(1) - nn.functional.softplus(self.slack)
            scaled = free * torch.exp(self.log_weights[:, None] - self.log_weights)
            matrix = scaled + torch.diag(diagonal)
            if self._slopes[0] < 0.0:
                reach = free.abs().sum(1) - diagonal
                matrix = matrix * (_STEEPEST / (-self._slopes[0] * reach.clamp_min(1e-30))).clamp_max(1.0)[:, None]
        operator = Dense(matrix, factorisation_cache(self))
        return operator, Componentwise(operator, self._slopes)

    @override
    def decided_by(self) -> tuple[Hashable, tuple[Tensor, ...]]:
        return (float(self.mu), *map(float, self._slopes)), (self.T, self.slack, self.log_weights)

    @override
    def require_activation(self, activation: Activation) -> None:
        low, high = activation.slope_range
        if not (self._slopes[0] <= low and high <= self._slopes[1]):
            raise InputError(
                f"activation={activation!r}: has slopes within {(low, high)}, the log norm was bounded for slopes within "
                f"{self._slopes}; build the layer with this activation"
            )

    def _is_usable(self, value: float) -> bool:
        return -math.inf < value < 1.0 and value * self._slopes[1] < 1.0

    def extra_repr(self) -> str:
        """Shown inside ``repr``."""
        return f"state_features={self.state_features}, mu={self.mu}"

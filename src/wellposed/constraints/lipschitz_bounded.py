"""Monotonicity in a learned diagonal metric, with or without a prescribed Lipschitz bound (Revay, Wang & Manchester 2020).

With Ψ = Λ⁻¹ the state weight is ``W = I − Ψ(H + VᵀV + εI + Sᵀ − S)``: the paper's Condition 1 for H = 0, and its Condition 2,
the Lipschitz bound γ from input to output, for ``H = (W_oᵀW_o + ΛUUᵀΛ)/(2γ)``. With a feedthrough D of norm below γ,
``H = (W_oᵀW_o/γ + GR⁻¹Gᵀ)/2`` with ``R = γI − DᵀD/γ`` and ``G = ΛU + W_oᵀD/γ``. Every W that satisfies the condition with the
margin 2εI arises for some V and S.
"""

from __future__ import annotations

import math
from collections.abc import Hashable

import torch
from torch import Tensor, nn
from typing_extensions import override

from wellposed.constraints.base import Constraint, SavedNumber, check_size
from wellposed.constraints.factorisations import factorisation_cache
from wellposed.errors import GuaranteeError, check, choices
from wellposed.guarantee import StronglyMonotone
from wellposed.guarantee.monotone import ProvedMonotone
from wellposed.numerics.linear_algebra import full_precision
from wellposed.operators.dense import Dense


class LipschitzBounded(SavedNumber, Constraint):
    """Free parameters V, S of shape (n, n) and ψ of shape (n,), the logarithm of Ψ.

    Args:
        state_features: n.
        metric: ``"diagonal"`` to learn ψ, ``"identity"`` to keep it zero.
        epsilon: the margin, as a fraction of the mean eigenvalue of VᵀV plus one: small values give up little of the
            bound, large ones make the equilibrium easier to find.
    """

    saved = "epsilon"

    def __init__(
        self,
        state_features: int,
        *,
        metric: str = "diagonal",
        epsilon: float = 0.01,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_size(state_features)
        choices("metric", metric, ("diagonal", "identity"))
        check(0.0 < epsilon < math.inf, "epsilon", epsilon, "the margin must be positive and finite")
        self.epsilon = float(epsilon)
        self.V = nn.Parameter(torch.empty(state_features, state_features, device=device, dtype=dtype))
        self.S = nn.Parameter(torch.empty(state_features, state_features, device=device, dtype=dtype))
        psi = torch.empty(state_features, device=device, dtype=dtype)
        self.psi = nn.Parameter(psi, requires_grad=metric == "diagonal")
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """V and S uniformly within ±1/√n, Ψ = I."""
        bound = self.V.shape[0] ** -0.5
        nn.init.uniform_(self.V, -bound, bound)
        nn.init.uniform_(self.S, -bound, bound)
        nn.init.zeros_(self.psi)

    def _is_usable(self, value: float) -> bool:
        return 0.0 < value < math.inf

    @property
    @override
    def state_features(self) -> int:
        return self.V.shape[0]

    def metric(self) -> Tensor:
        """The diagonal of Λ, shape (n,), with its graph."""
        return torch.exp(-self.psi)

    def margin(self) -> Tensor:
        """ε as it enters W, a number with its graph."""
        return self.epsilon * (1.0 + self.V.square().sum() / self.V.shape[0])

    def materialise(self, bounded: Tensor | None = None) -> tuple[Dense, StronglyMonotone]:
        """W and its guarantee.

        Args:
            bounded: H, shape (n, n), symmetric positive semidefinite; see `lipschitz_term`.
        """
        with full_precision(self.V.device):
            identity = torch.eye(self.V.shape[0], dtype=self.V.dtype, device=self.V.device)
            margin = self.margin()
            core = self.V.t() @ self.V + margin * identity + (self.S.t() - self.S)
            if bounded is not None:
                core = core + bounded
            matrix = identity - torch.exp(self.psi)[:, None] * core
        operator = Dense(matrix, factorisation_cache(self), self.metric().detach().double())
        # By construction it is at least the margin times the least Ψ, and typically the margin times a middle one.
        middle = (margin * self.psi.mean().exp()).detach()
        nominal = None if torch._C._functorch.is_functorch_wrapped_tensor(middle) else float(middle)
        return operator, ProvedMonotone(operator, nominal)

    @override
    def decided_by(self) -> tuple[Hashable, tuple[Tensor, ...]]:
        """What W is formed of where there is no H; layers with one know what that is formed of."""
        return float(self.epsilon), (self.V, self.S, self.psi)

    @torch.no_grad()
    def set_dense(self, matrix: Tensor, metric: Tensor, bounded: Tensor | None = None) -> None:
        """Choose V, S and ψ so that W becomes a given matrix.

        Args:
            matrix: W, shape (n, n).
            metric: the diagonal of Λ, shape (n,), positive.
            bounded: H at that metric, or None.

        Raises:
            GuaranteeError: W does not satisfy the condition in this metric with this layer's margin.
        """
        weight, metric = matrix.detach().double(), metric.detach().double()
        core = metric[:, None] * (torch.eye(len(weight), dtype=torch.float64, device=weight.device) - weight)
        symmetric = 0.5 * (core + core.T) - (0.0 if bounded is None else bounded.detach().double())
        usable = bool(torch.isfinite(symmetric).all() and torch.isfinite(metric.log()).all())
        if not usable:
            raise GuaranteeError(
                "matrix: its condition overflows in this metric, or the metric is not positive and finite"
            )
        # With ε = e·(1 + tr VᵀV/n), the trace of VᵀV follows from that of VᵀV + εI.
        trace = (float(symmetric.trace()) - len(weight) * self.epsilon) / (1.0 + self.epsilon)
        margin = self.epsilon * (1.0 + trace / len(weight))
        values, vectors = torch.linalg.eigh(symmetric)
        remaining = values - margin
        if float(remaining.amin()) < -1e-9 * float(values.abs().amax()):
            raise GuaranteeError(
                f"matrix: misses the condition by {-float(remaining.amin()):.3g} in this metric with epsilon={self.epsilon}; "
                "use a smaller epsilon, a better metric or a larger gamma"
            )
        found = remaining.clamp_min(0.0).sqrt()[:, None] * vectors.T, 0.5 * (core.T - core) / 2.0, -metric.log()
        parts = [value.to(self.V.dtype) for value in found]
        if not all(bool(torch.isfinite(part).all()) for part in (*parts, parts[2].exp())):
            raise GuaranteeError(f"matrix: its parameters in this metric overflow {self.V.dtype}; use float64")
        for parameter, value in zip((self.V, self.S, self.psi), parts, strict=True):
            parameter.copy_(value)

    def extra_repr(self) -> str:
        """Shown inside ``repr``."""
        return f"state_features={self.state_features}, epsilon={self.epsilon}"

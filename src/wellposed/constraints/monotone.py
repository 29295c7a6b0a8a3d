"""Strong monotonicity: ``W = (1 − m)·I − AᵀA + B − Bᵀ`` (Winston & Kolter 2020, Proposition 1)."""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.constraints.base import Constraint
from wellposed.errors import GuaranteeError, InputError, check
from wellposed.guarantee import StronglyMonotone
from wellposed.operators.dense import Dense, FactorisationCache
from wellposed.verified import symmetric_part_lower_bound

# Factorisations live beside the modules, not in them: a module that has run is the same object as one that has not.
_caches: weakref.WeakKeyDictionary[nn.Module, FactorisationCache] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def factorisation_cache(module: nn.Module) -> FactorisationCache:
    """The factorisations of one module's weights; never part of its state, its copies or its pickles."""
    with _lock:
        return _caches.setdefault(module, FactorisationCache())


class Monotone(Constraint):
    """Free parameters A, B of shape (n, n); the symmetric part of I − W is m·I + AᵀA.

    The diagonal is lowered by a bound on the rounding errors of forming W (a few units of the last place of ‖A‖²), so
    that ``I − W ⪰ m·I`` holds for the *stored* numbers and not only for the ideal formula.

    Args:
        state_features: n.
        m: strong-monotonicity constant, positive. Saved with the weights.
    """

    def __init__(
        self,
        state_features: int,
        m: float = 1.0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check(state_features > 0, "state_features", state_features, "must be a positive integer")
        check(math.isfinite(m) and m > 0.0, "m", m, "the strong-monotonicity constant must be positive and finite")
        self.m = float(m)
        self.A = nn.Parameter(torch.empty(state_features, state_features, device=device, dtype=dtype))
        self.B = nn.Parameter(torch.empty(state_features, state_features, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw A and B uniformly within ±1/√n, the initialisation of the original model."""
        bound = self.A.shape[0] ** -0.5
        nn.init.uniform_(self.A, -bound, bound)
        nn.init.uniform_(self.B, -bound, bound)

    @property
    def state_features(self) -> int:  # noqa: D102
        return self.A.shape[0]

    def materialise(self) -> tuple[Dense, StronglyMonotone]:  # noqa: D102
        with torch.autocast(self.A.device.type, enabled=False):
            matrix = _state_weight(self.A, self.B, self.m)
        operator = Dense(matrix, factorisation_cache(self))
        return operator, StronglyMonotone(operator, self.m)

    def verify(self) -> float:
        """The strong-monotonicity constant proved for the stored W in float64, capped at ``m``.

        Raises:
            GuaranteeError: no positive constant could be proved.
            InputError: NaN or infinite weights.
        """
        with torch.no_grad():
            matrix = self.materialise()[0].dense()
        identity = torch.eye(matrix.shape[0], dtype=torch.float64)
        displacement = identity - matrix.double().cpu()
        # Subtracting from the identity rounds the diagonal once.
        proved = symmetric_part_lower_bound(displacement) - 2.0**-52 * float(displacement.diagonal().abs().max())
        if proved <= 0.0:
            raise GuaranteeError(
                f"m={self.m!r}: I − W ⪰ m·I is lost to rounding at these weights (proved only {proved:.3g}); "
                "use float64, a larger m, or smaller weights"
            )
        return min(proved, self.m)

    def get_extra_state(self) -> Tensor:
        """``m``, which decides what the weights mean and so must travel with them."""
        return torch.tensor(self.m, dtype=torch.float64)

    def set_extra_state(self, state: Any) -> None:
        """Restore ``m`` from a state dict."""
        m = float(state)
        check(math.isfinite(m) and m > 0.0, "m", m, "the checkpoint's strong-monotonicity constant is unusable")
        self.m = m

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As `torch.nn.Module.load_state_dict`; NaN or infinite weights are refused before anything changes."""
        for name in ("A", "B"):
            if name in state_dict and not bool(torch.isfinite(state_dict[name]).all()):
                raise InputError(f"{name}: the state dict has NaN or infinite weights")
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def extra_repr(self) -> str:
        """Shown inside ``repr``."""
        return f"state_features={self.state_features}, m={self.m}"


def _state_weight(a: Tensor, b: Tensor, m: float) -> Tensor:
    size = a.shape[0]
    unit = 0.5 * torch.finfo(a.dtype).eps
    with torch.no_grad():
        a_square = torch.linalg.matrix_norm(a) ** 2
        b_norm = torch.linalg.matrix_norm(b)
        # Product: γ_n‖A‖²; the additions: at most four more roundings of every term.
        diagonal = (1.0 - m) - unit * ((size + 8) * a_square + 8.0 * b_norm + 4.0 * (1.0 + m))
    matrix = torch.addmm(b - b.t(), a.t(), a, alpha=-1.0)
    return matrix + torch.diag_embed(diagonal.expand(size))

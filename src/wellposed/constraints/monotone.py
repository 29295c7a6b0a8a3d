"""Strong monotonicity: ``W = (1 − m)·I − AᵀA + B − Bᵀ`` (Winston & Kolter 2020, Proposition 1)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from wellposed.constraints.base import Constraint, SavedNumber, check_size
from wellposed.constraints.factorisations import factorisation_cache
from wellposed.errors import InputError, check
from wellposed.guarantee import StronglyMonotone, proved_monotonicity
from wellposed.guarantee.monotone import ByChanges
from wellposed.numerics.linear_algebra import full_precision
from wellposed.numerics.outward import enlarged, unit_of
from wellposed.numerics.positional import PositionalFunction
from wellposed.numerics.product import product, subtracted_product
from wellposed.operators import Operator
from wellposed.operators.dense import Dense

# From this size on AᵀA is formed in so many blocks of columns.
_LARGE, _BLOCKS = 256, 4


class StrongMonotonicity(SavedNumber, Constraint):
    """What constraints with a prescribed m share.

    Args:
        m: strong-monotonicity constant, positive. Saved with the weights.
    """

    saved = "m"

    def __init__(self, m: float) -> None:
        super().__init__()
        check(
            isinstance(m, int | float) and math.isfinite(m) and m > 0.0,
            "m",
            m,
            "the strong-monotonicity constant must be positive and finite",
        )
        self.m = float(m)

    def _is_usable(self, value: float) -> bool:
        return 0.0 < value < math.inf


class Monotone(StrongMonotonicity):
    """Free parameters A, B of shape (n, n); the symmetric part of I − W is m·I + AᵀA.

    W is formed in the dtype of A and B, so that its stored numbers satisfy ``I − W ⪰ m·I`` up to rounding only. The
    guarantee counts that rounding: its constant is slightly below m, and holds for the stored numbers.

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
        super().__init__(m)
        check_size(state_features)
        self.A = nn.Parameter(torch.empty(state_features, state_features, device=device, dtype=dtype))
        self.B = nn.Parameter(torch.empty(state_features, state_features, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw A and B uniformly within ±1/√n, the initialisation of the original model."""
        bound = self.A.shape[0] ** -0.5
        nn.init.uniform_(self.A, -bound, bound)
        nn.init.uniform_(self.B, -bound, bound)

    @property
    @override
    def state_features(self) -> int:
        return self.A.shape[0]

    @override
    def materialise(self) -> tuple[Dense, StronglyMonotone]:
        with full_precision(self.A.device):
            matrix = _StateWeight.apply(self.A, self.B, self.m)
        operator = Dense(matrix, factorisation_cache(self))
        return operator, _FormedMonotone(operator, self.m)

    @override
    def decided_by(self) -> tuple[Hashable, tuple[Tensor, ...]]:
        return float(self.m), (self.A, self.B)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As `torch.nn.Module.load_state_dict`; NaN or infinite weights are refused before anything changes."""
        for name in ("A", "B"):
            if name in state_dict and not bool(torch.isfinite(state_dict[name]).all()):
                raise InputError(f"{name}: the state dict has NaN or infinite weights")
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def extra_repr(self) -> str:
        """Shown inside ``repr``."""
        return f"state_features={self.state_features}, m={self.m}"


class _FormedMonotone(StronglyMonotone):
    """Strong monotonicity of a W formed by `_StateWeight` in floating point.

    Forming AᵀA errs by at most γ_n·‖A‖_F², and every further addition by one rounding of its terms; ‖A‖_F² = tr AᵀA is
    read off the trace of W. Where that a-priori bound is no longer small against m, eigenvalues decide, in float64.
    """

    def __init__(self, operator: Operator, m: float) -> None:
        self.operator, self._nominal = operator, m

    @cached_property
    def m(self) -> float:  # type: ignore[override]  # computed on demand: it needs numbers, not graph tensors
        operator, nominal = self.operator, self._nominal
        size = operator.tensors[0].shape[0]
        unit = unit_of(operator.dtype)
        gram = size * (1.0 - nominal) - operator.trace()
        error = unit * ((size + 8) * abs(gram) + 8.0 * operator.norm_upper_bound() + 4.0 * (1.0 + size * nominal))
        if error <= 0.1 * nominal:
            return nominal - 1.1 * error
        return min(proved_monotonicity(operator.dense()), nominal)

    def offset_lipschitz(self) -> float:
        """1/m, with m proved by eigenvalues rather than taken from the a-priori bound."""
        return enlarged(1.0 / min(proved_monotonicity(self.operator.dense()), self._nominal), 1)

    @override
    def estimated(self) -> StronglyMonotone:
        return ByChanges(self.operator, self._nominal)

    def on(self, operator: Operator) -> StronglyMonotone:
        """The transpose, and float64 copies, have the same numbers and so the same constant."""
        found = _FormedMonotone(operator, self._nominal)
        if "m" in vars(self):
            vars(found)["m"] = self.m
        return found


def _less_gram(matrix: Tensor, a: Tensor) -> Tensor:
    """``matrix − AᵀA``, for which ``matrix`` may be overwritten; of large A every block above the diagonal serves both sides."""
    size = len(a)
    if size < _LARGE:
        return subtracted_product(matrix, a.t(), a)
    edges = [size * block // _BLOCKS for block in range(_BLOCKS + 1)]
    for first, last in itertools.pairwise(edges):
        rows = a[:, first:last].t()
        matrix[first:last, first:last] = subtracted_product(matrix[first:last, first:last], rows, rows.t())
        if last < size:
            found = product(rows, a[:, last:])
            matrix[first:last, last:].sub_(found)
            matrix[last:, first:last].sub_(found.t())
    return matrix


class _StateWeight(PositionalFunction):
    """``W`` from A and B, with one product in either direction."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, b: Tensor, m: float) -> Tensor:
        skew = b - b.t().contiguous()  # of large matrices reading along columns takes several times as long
        batched = torch._C._are_functorch_transforms_active()  # A, but not B, may have one more dimension
        matrix = torch.addmm(skew, a.t(), a, alpha=-1.0) if batched else _less_gram(skew, a)
        matrix.diagonal().add_(1.0 - m)
        return matrix

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, Tensor, None]:
        (a,) = ctx.saved_tensors
        flipped = cotangent.t().contiguous()
        return product(a, cotangent + flipped).neg_(), cotangent - flipped, None

    @staticmethod
    def jvp(ctx: Any, a_tangent: Tensor | None, b_tangent: Tensor | None, _: None) -> Tensor:
        (a,) = ctx.saved_tensors
        change = torch.zeros_like(a)
        if a_tangent is not None:
            product = a.t() @ a_tangent
            change = change - product - product.t()
        if b_tangent is not None:
            change = change + b_tangent - b_tangent.t()
        return change

"""No constraint, and so no promise: the state map of a plain deep equilibrium model (Bai, Kolter & Koltun 2019)."""

from __future__ import annotations

import torch
from torch import nn
from typing_extensions import override

from wellposed.constraints.base import Constraint, check_size
from wellposed.constraints.factorisations import factorisation_cache
from wellposed.operators.dense import Dense


class Unconstrained(Constraint):
    """W is the free parameter itself, shape (n, n): an equilibrium may not exist, or not be unique.

    Args:
        state_features: n.
    """

    needs_monotone = False

    def __init__(
        self, state_features: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        check_size(state_features)
        self.W = nn.Parameter(torch.empty(state_features, state_features, device=device, dtype=dtype))
        nn.init.normal_(self.W, std=0.5 * state_features**-0.5)

    @property
    @override
    def state_features(self) -> int:
        return self.W.shape[0]

    @override
    def materialise(self) -> tuple[Dense, None]:
        return Dense(self.W, factorisation_cache(self)), None

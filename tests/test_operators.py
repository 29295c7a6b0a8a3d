"""Operators through the shared case."""

from __future__ import annotations

import pytest
import torch

import wellposed as wp
from harness.operator_case import OperatorCase
from wellposed.operators import Dense


class TestDense(OperatorCase):
    def make_operator(self):
        return Dense(torch.randn(11, 11, dtype=torch.float64) * 0.2)

    def dense(self, operator):
        return operator.tensors[0]

    def state_shape(self):
        return (11,)


class TestLargeDense(TestDense):
    """Above the block size of the accretive inverse."""

    def make_operator(self):
        skew = torch.randn(150, 150, dtype=torch.float64)
        return Dense(0.05 * torch.randn(150, 150, dtype=torch.float64) + skew - skew.T)

    def state_shape(self):
        return (150,)


def test_only_square_matrices():
    with pytest.raises(wp.InputError, match=r"\(2, 3\)"):
        Dense(torch.zeros(2, 3))

"""Lipschitz bounds through the shared case."""

from __future__ import annotations

import torch
from torch import nn

import wellposed as wp
from wellposed.testing import BoundCase, randn


class TestProduct(BoundCase):
    """Of the constants of the blocks: attained by a single linear map."""

    def make_model(self):
        torch.manual_seed(0)
        return nn.Sequential(wp.MonDEQ(5, 4, m=0.5), nn.Linear(4, 3)).double()

    def inputs(self, count=8):
        return randn(count, 5, seed=1, dtype=torch.float64)

    def bound(self, model):
        return wp.certify(model, method="product", norm=self.norm).lipschitz

    def tight_model(self):
        return nn.Linear(5, 2, dtype=torch.float64)


class TestMetric(TestProduct):
    """The best diagonal metric: attained where there is one state."""

    def bound(self, model):
        return wp.certify(model, method="metric").lipschitz

    def tight_model(self):
        torch.manual_seed(0)
        return nn.Sequential(wp.MonDEQ(5, 1, activation="identity"), nn.Linear(1, 1)).double()


class TestComponentwise(TestProduct):
    """In ℓ∞, from the componentwise theorem."""

    norm = "inf"

    def make_model(self):
        torch.manual_seed(0)
        return nn.Sequential(wp.NEMON(5, 4), nn.Linear(4, 3)).double()

    def bound(self, model):
        return wp.certify(model, norm=self.norm).lipschitz


class TestLargestColumn(TestComponentwise):
    """In ℓ1, of the same layer."""

    norm = "1"

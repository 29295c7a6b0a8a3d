"""Kinds of blocks, of torch and of this library, through the shared case."""

from __future__ import annotations

import torch
from torch import nn

import wellposed as wp
from wellposed.testing import BlockCase, randn


class FlatBlockCase(BlockCase):
    """A block on seven features."""

    def inputs(self, count=8, dtype=torch.float64):
        return randn(count, 7, seed=1, dtype=dtype)

    def make(self, dtype):
        raise NotImplementedError

    def make_block(self, dtype=torch.float64):
        torch.manual_seed(0)
        return self.make(dtype).eval()


class ImageBlockCase(FlatBlockCase):
    """A block on images of two channels."""

    def inputs(self, count=6, dtype=torch.float64):
        return randn(count, 2, 4, 6, seed=1, dtype=dtype)


class TestLinear(FlatBlockCase):
    norms = ("2", "inf", "1")

    def make(self, dtype):
        return nn.Linear(7, 5, dtype=dtype)


class TestTanh(FlatBlockCase):
    def make(self, dtype):
        return nn.Tanh()


class TestBatchNorm(FlatBlockCase):
    def make(self, dtype):
        block = nn.BatchNorm1d(7, dtype=dtype)
        block.running_mean.normal_()
        block.running_var.uniform_(0.5, 2.0)
        return block


class TestMonDEQ(FlatBlockCase):
    def make(self, dtype):
        return wp.MonDEQ(7, 5, dtype=dtype)


class TestSandwich(FlatBlockCase):
    def make(self, dtype):
        return wp.Sandwich(7, 5, dtype=dtype)


class TestConvolution(ImageBlockCase):
    def make(self, dtype):
        return nn.Conv2d(2, 3, 3, padding=1, dtype=dtype)


class TestAveragePool(ImageBlockCase):
    def make(self, dtype):
        return nn.AvgPool2d(2)

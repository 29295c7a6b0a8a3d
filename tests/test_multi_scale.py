"""The multi-tier monotone layer against the dense layer of its matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import wellposed as wp
from wellposed import testing
from wellposed.constraints.multi_scale_monotone import tier_images
from wellposed.testing import ConvLayerCase


class TestMultiScaleMonDEQ(ConvLayerCase):
    def exact(self, dtype):
        return {"rtol": 1e-11, "atol": 1e-11} if dtype == torch.float64 else {}

    def make(self, image=(5, 6), dtype=torch.float64, channels=2, **options):
        torch.manual_seed(0)
        layer = wp.MultiScaleMonDEQ(
            channels, (2, 3), image, **{"m": 0.5, "dtype": dtype, **self.exact(dtype), **options}
        )
        with torch.no_grad():
            for bias in layer.injection.others:
                bias.normal_()
        return layer


class TestBorderedMultiScaleMonDEQ(TestMultiScaleMonDEQ):
    def make(self, image=(5, 6), dtype=torch.float64, channels=2, **options):
        return super().make(image, dtype, channels, border=1, **options)

    def inside(self, layer):
        masks = []
        for shape in layer.injection.tiers:
            mask = testing.zeros(shape, dtype=torch.bool)
            mask[:, 1:-1, 1:-1] = True
            masks.append(mask.flatten())
        return torch.cat(masks)


class TestThreeTiers(TestMultiScaleMonDEQ):
    def make(self, image=(5, 6), dtype=torch.float64, channels=2, **options):
        torch.manual_seed(1)
        settings = {"m": 0.5, "dtype": dtype, **self.exact(dtype), **options}
        return wp.MultiScaleMonDEQ(channels, (1, 2, 1), image, **settings)


def test_sizes_of_the_published_networks():
    assert tier_images((28, 28), 3, border=1) == ((30, 30), (16, 16), (9, 9))
    assert tier_images((32, 32), 3, border=1) == ((34, 34), (18, 18), (10, 10))
    assert tier_images((14, 14), 2) == ((14, 14), (7, 7))
    assert tier_images((14, 9), 3) == ((16, 12), (8, 6), (4, 3))
    assert tier_images((1, 6), 2) == ((1, 6), (1, 3))


def test_the_symmetric_part_is_m_plus_a_gram_matrix():
    """W is the block lower triangular map of the definition: from dense matrices of every convolution."""
    torch.manual_seed(0)
    layer = wp.MultiScaleMonDEQ(1, (2, 3), (4, 6), m=0.7, dtype=torch.float64)
    constraint = layer.constraint

    def circular(kernel, image, step=1):
        rows, columns = kernel.shape[2] // 2, kernel.shape[3] // 2
        count = kernel.shape[1] * image[0] * image[1]
        identity = testing.eye(count, dtype=torch.float64).reshape(count, kernel.shape[1], *image)
        wide = torch.nn.functional.pad(identity, (columns, columns, rows, rows), mode="circular")
        return torch.nn.functional.conv2d(wide, kernel.detach(), stride=step).flatten(1).T

    first, second = constraint.images
    sizes = 2 * 24, 3 * 6
    a = testing.zeros(sum(sizes), sum(sizes), dtype=torch.float64)
    a[:48, :48] = circular(constraint.A[0], first)
    a[48:, 48:] = circular(constraint.A[1], second)
    a[48:, :48] = circular(constraint.D[0], first, 2)
    matrix = layer.operator().dense().detach()
    assert float(matrix[:48, 48:].abs().max()) == 0.0
    symmetric = testing.eye(66, dtype=torch.float64) - 0.5 * (matrix + matrix.T)
    torch.testing.assert_close(symmetric, 0.7 * testing.eye(66, dtype=torch.float64) + a.T @ a, rtol=1e-12, atol=1e-12)
    proved = layer.guarantee().m
    assert 0.7 - 1e-9 < proved <= float(torch.linalg.eigvalsh(symmetric)[0]) + 1e-14


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e2, 1e5])
def test_condition_holds_for_any_kernels_or_the_layer_raises(dtype, scale):
    layer = TestMultiScaleMonDEQ().make((4, 6), dtype)
    with torch.no_grad():
        for parameter in layer.constraint.parameters():
            parameter.mul_(scale)
            parameter[0] = 0.0
    try:
        m = layer.guarantee().m
    except wp.GuaranteeError:
        return
    matrix = layer.operator().to(torch.float64).dense().detach()
    gap = testing.eye(len(matrix), dtype=torch.float64) - 0.5 * (matrix + matrix.T)
    assert 0 < m <= 0.5 * (1 + 1e-4)
    assert float(torch.linalg.eigvalsh(gap)[0]) >= m - 1e-12 * float(gap.abs().max())


def test_tiers_and_values():
    layer = wp.MultiScaleMonDEQ(1, (2, 3, 4), (28, 28), border=1)
    x = testing.rand(2, 1, 28, 28)
    solution = layer.solve(x)
    tiers = layer.tiers(solution.value)
    assert [tuple(tier.shape) for tier in tiers] == [(2, 2, 30, 30), (2, 3, 16, 16), (2, 4, 9, 9)]
    torch.testing.assert_close(layer(x), tiers[-1], rtol=1e-2, atol=1e-2)
    for tier in tiers:
        inner = torch.zeros_like(tier)
        inner[..., 1:-1, 1:-1] = tier[..., 1:-1, 1:-1]
        assert torch.equal(tier, inner)
        assert float(tier.detach().abs().max()) > 0
    for bad, message in (({"channels": (2, 0)}, "positive"), ({"border": 2}, "border=2"), ({"m": 0.0}, "m=0.0")):
        with pytest.raises(wp.InputError, match=message):
            wp.MultiScaleMonDEQ(1, **{"channels": (2, 2), "image": (4, 4), **bad})
    assert np.isfinite(layer.lipschitz()[0])

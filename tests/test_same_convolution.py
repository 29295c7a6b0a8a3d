"""Convolutions in float64 by products of matrices, against torch's and against the sum that defines them."""

from __future__ import annotations

import pytest
import torch

from wellposed import testing
from wellposed.numerics.same_convolution import same_convolution

SHAPES = [
    (1, 1, 1, 1, 1, 1, 1), (3, 2, 4, 5, 6, 3, 3), (2, 3, 2, 4, 7, 5, 3), (2, 3, 2, 7, 4, 1, 3), (2, 1, 3, 2, 3, 7, 5),
    (4, 2, 2, 3, 2, 3, 3), (0, 2, 3, 4, 4, 3, 3), (40, 24, 5, 28, 28, 3, 3), (2, 2, 2, 3, 1, 3, 3),
]  # fmt: skip


@pytest.mark.parametrize(("batch", "inputs", "outputs", "height", "width", "rows", "columns"), SHAPES)
def test_it_is_the_convolution(batch, inputs, outputs, height, width, rows, columns):
    images = testing.randn(batch, inputs, height, width, dtype=torch.float64)
    kernel = testing.randn(outputs, inputs, rows, columns, dtype=torch.float64)
    expected = torch.nn.functional.conv2d(images, kernel, padding=(rows // 2, columns // 2))
    with torch.no_grad():
        found = same_convolution(images, kernel)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13 * inputs * rows * columns)


@torch.no_grad()
def test_every_sample_is_by_itself():
    images, kernel = testing.randn(30, 24, 28, 28, dtype=torch.float64), testing.randn(4, 24, 3, 3, dtype=torch.float64)
    whole = same_convolution(images, kernel)
    for k in (0, 13, 29):
        torch.testing.assert_close(same_convolution(images[k : k + 1], kernel)[0], whole[k], rtol=0, atol=1e-12)
    spoilt = images.clone()
    spoilt[7, 3, 5, 5] = torch.nan
    found = same_convolution(spoilt, kernel)
    assert bool(found[7].isnan().any()) and not bool(found[[k for k in range(30) if k != 7]].isnan().any())


def test_graphs_and_transforms_are_torchs():
    images, kernel = testing.randn(2, 2, 4, 4, dtype=torch.float64), testing.randn(3, 2, 3, 3, dtype=torch.float64)
    images.requires_grad_()
    assert same_convolution(images, kernel).requires_grad
    with torch.no_grad():
        each = torch.func.vmap(lambda image: same_convolution(image[None], kernel)[0])(images.detach())
        torch.testing.assert_close(each, same_convolution(images.detach(), kernel))

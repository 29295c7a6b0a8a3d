"""Circular convolutions by real products, against complex transforms, and the residual coupling solved in closed form."""

from __future__ import annotations

import pytest
import torch

from wellposed import testing
from wellposed.layers.group_sort import group_sort
from wellposed.layers.resolved_sort import resolved_max_min
from wellposed.operators.real_spectrum import RealTransforms, block_rounding, real_blocks, real_rounding


@pytest.mark.parametrize("height", range(1, 8))
@pytest.mark.parametrize("width", range(1, 8))
def test_convolutions_are_those_of_complex_transforms(height, width):
    generator = testing.generator(0)
    spectrum = testing.randn(height, width // 2 + 1, 3, 2, 2, generator=generator, dtype=torch.float64)
    image = testing.randn(5, 2, height, width, generator=generator, dtype=torch.float64)
    products = torch.einsum("hwoi,bihw->bohw", torch.view_as_complex(spectrum), torch.fft.rfft2(image))
    # What irfft2 makes of products in which rows are transformed back first, and imaginary parts of edges are left out.
    expected = torch.fft.irfft2(products, s=(height, width))
    blocks = real_blocks(spectrum.flatten(0, 1), (height, width))
    transforms = RealTransforms.of((height, width), torch.float64, image.device)
    found = transforms.convolved(blocks, image.permute(3, 2, 1, 0)).permute(3, 2, 1, 0)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_rounding_is_bounded():
    unit = torch.finfo(torch.float32).eps / 2
    for size in ((8, 8), (5, 9), (1, 4)):
        matrix = torch.linalg.qr(testing.randn(4, 4, dtype=torch.float64))[0]
        transfer = torch.stack([matrix, torch.zeros_like(matrix)], -1).expand(size[0] * (size[1] // 2 + 1), 4, 4, 2)
        image = testing.rand(size[1], size[0], 4, 50, dtype=torch.float64).float()
        results = []
        for dtype in (torch.float64, torch.float32):
            transforms = RealTransforms.of(size, dtype, image.device)
            results.append(transforms.convolved(real_blocks(transfer.to(dtype), size), image.to(dtype)).double())
        away = (results[0] - results[1]).flatten(0, 2).norm(dim=0) / image.flatten(0, 2).double().norm(dim=0)
        bound = unit * (2 * real_rounding(size) + block_rounding(4, 4))
        assert 0.0 < float(away.max()) <= bound


@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_a_direct_path_is_solved_for(share):
    value = testing.randn(50, 8, 3, dtype=torch.float64)
    ratio = torch.tensor(1.0 / (1.0 + share), dtype=torch.float64, device=value.device)
    found = resolved_max_min(value, ratio, -2)
    torch.testing.assert_close(group_sort(share * found + (1.0 - share) * value, 2, -2), found)
    near = value + 1e-3 * torch.randn_like(value)
    change = (resolved_max_min(near, ratio, -2) - found).flatten(1).norm(dim=1)
    assert (change <= (near - value).flatten(1).norm(dim=1) * (1 + 1e-12)).all()

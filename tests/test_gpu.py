"""Everything on CUDA as on the CPU. Skipped, with a reason, where there is no CUDA device."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import wellposed as wp

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="NO CUDA DEVICE: nothing here was tested on a GPU"
)

LAYERS = {
    "mondeq": lambda **o: wp.MonDEQ(12, 6, **o),
    "lben": lambda **o: wp.LBEN(12, 6, gamma=2.0, out_features=3, **o),
    "nemon": lambda **o: wp.NEMON(12, 6, **o),
    "pcdeq": lambda **o: wp.PcDEQ(12, 6, **o),
    "orthogonal": lambda **o: wp.OrthogonalDEQ(12, 6, **o),
    "conv-mondeq": lambda **o: wp.ConvMonDEQ(1, 2, (3, 4), border=1, **o),
    "multi-scale": lambda **o: wp.MultiScaleMonDEQ(1, (2, 3), (3, 4), **o),
    "conv-lben": lambda **o: wp.ConvLBEN(1, 2, (3, 4), gamma=2.0, out_features=3, metric="full", **o),
    "conv-nemon": lambda **o: wp.ConvNEMON(1, 2, (3, 4), **o),
    "conv-pcdeq": lambda **o: wp.ConvPcDEQ(1, 2, (3, 4), **o),
    "conv-orthogonal": lambda **o: wp.ConvOrthogonalDEQ(1, 2, (3, 4), hidden=4, **o),
}


@pytest.fixture(autouse=True)
def _full_float32():
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def pair(name, dtype):
    torch.manual_seed(0)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    layer = LAYERS[name](dtype=dtype, rtol=tolerance, atol=tolerance)
    shape = (1, 3, 4) if "conv" in name or name == "multi-scale" else (12,)
    return layer, copy.deepcopy(layer).cuda(), torch.randn(5, *shape, dtype=dtype)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_gradients_and_evidence(name, dtype):
    layer, other, x = pair(name, dtype)
    close = {"rtol": 1e-6, "atol": 1e-7} if dtype == torch.float64 else {"rtol": 1e-3, "atol": 1e-3}
    value, moved = layer(x), other(x.cuda())
    assert moved.is_cuda
    torch.testing.assert_close(moved.cpu(), value, **close)
    value.square().sum().backward()
    moved.square().sum().backward()
    for (label, first), second in zip(layer.named_parameters(), other.parameters(), strict=True):
        if first.grad is not None:
            torch.testing.assert_close(second.grad.cpu(), first.grad, msg=label, **close)
    solution = other.solve(x.cuda())
    assert solution.converged.all() and solution.error_bound.is_cuda
    reference = layer.solve(x)
    error = (solution.value.detach().cpu().double() - reference.value.detach().double()).flatten(1).norm(dim=1)
    assert (error <= solution.error_bound.cpu() + reference.error_bound).all()


@pytest.mark.parametrize("name", LAYERS)
def test_certificates(name):
    layer, other, x = pair(name, torch.float32)
    expected = wp.certify(layer).lipschitz
    certificate = wp.certify(other, inputs=x.cuda())
    assert certificate.lipschitz == pytest.approx(expected, rel=1e-4)
    assert certificate.lower_bound <= certificate.lipschitz
    assert certificate.check()


def test_reduced_precision_convolutions_are_refused():
    torch.backends.cudnn.allow_tf32 = True
    with pytest.raises(wp.CertificateError, match="allow_tf32"):
        wp.certify(nn.Sequential(wp.ConvMonDEQ(1, 2, (3, 4)).cuda()))

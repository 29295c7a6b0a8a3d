"""Certificates are for float32 and float64 arithmetic, and refuse everything else."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import wellposed as wp
from wellposed import testing
from wellposed.network import bounded_logits


def model(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(wp.MonDEQ(6, 5, dtype=dtype), nn.Linear(5, 3, dtype=dtype))


@pytest.mark.parametrize(("dtype", "name"), [(torch.float32, "float32"), (torch.float64, "float64")])
def test_a_certificate_states_its_precision(dtype, name):
    assert wp.certify(model(dtype)).precision == name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_refused(dtype):
    low = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).to(dtype)
    with pytest.raises(wp.CertificateError, match="float32 and float64 only"):
        wp.certify(low)
    with pytest.raises(wp.CertificateError, match=r"0\.weight"):
        bounded_logits(low, testing.zeros(1, 6, dtype=dtype))


@pytest.mark.parametrize("setting", ["high", "medium"])
def test_reduced_products_are_refused(setting):
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(setting)
        with pytest.raises(wp.CertificateError, match="highest"):
            wp.certify(model())
        with pytest.raises(wp.CertificateError, match="highest"):
            bounded_logits(model(), testing.zeros(1, 6))
    finally:
        torch.set_float32_matmul_precision(before)
    assert wp.certify(model()).lipschitz > 0


def test_autocast_is_refused_for_certificates_and_leaves_solves_as_they_are():
    network, x = model(), testing.randn(4, 6)
    expected = network[0](x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with pytest.raises(wp.CertificateError, match="autocast"):
            wp.certify(network)
        inside = network[0](x)
        solution = network[0].solve(x)
    assert inside.dtype == torch.float32 and solution.converged.all()
    # The input map runs in the layer's own precision too.
    torch.testing.assert_close(inside, expected, rtol=1e-3, atol=1e-3)

"""Verification of positive concave layers: against samples, against the ends of the hull, and in its refusals."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import wellposed as wp
from wellposed import testing
from wellposed.verification import PositiveVerifier, verifier_of


def model_of(activation="tanh", inputs=6, units=7, classes=3, seed=0, batch_norm=False, dtype=torch.float64):
    torch.manual_seed(seed)
    layer = wp.PcDEQ(inputs, units, activation=activation, batch_norm=batch_norm)
    blocks = [wp.Normalize((0.3,), (0.5,)), nn.Flatten(), layer]
    if batch_norm:
        blocks.append(nn.BatchNorm1d(units))
    model = nn.Sequential(*blocks, nn.Linear(units, classes)).to(dtype)
    if batch_norm:
        model.train()
        for _ in range(20):
            model(testing.rand(50, 1, 2, inputs // 2, dtype=dtype))
    return model.eval()


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("norm", ["2", "inf"])
@pytest.mark.parametrize("activation", ["tanh", "softsign", "relu6", "sigmoid"])
def test_certified_regions_have_no_counterexample(activation, norm, batch_norm):
    certified = 0
    for seed in range(4):
        model = model_of(activation, seed=seed, batch_norm=batch_norm)
        verifier = PositiveVerifier(model)
        x = testing.rand(1, 2, 3, dtype=torch.float64)
        label = int(model(x[None]).argmax())
        low, high = 0.0, 2.0
        for _ in range(12):
            radius = 0.5 * (low + high)
            good = verifier.verify(x, label, radius, norm=norm).status == "certified"
            low, high = (radius, high) if good else (low, radius)
        if low == 0.0:
            continue
        certified += 1
        change = testing.randn(3000, 1, 2, 3, dtype=torch.float64)
        change = change.sign() if norm == "inf" else change / change.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
        points = x + low * change
        points = points.clamp(0.0, 1.0) if norm == "inf" else points
        with torch.no_grad():
            assert bool((model(points).argmax(1) == label).all())
    assert certified >= 3


def test_boxes_whose_corners_order_the_margin_are_certified_up_to_the_boundary():
    """With U ≥ 0 and a head that grows in one state only, the margin is least at the lower corner, where the hull attains it."""
    model = model_of("sigmoid", inputs=4, units=4, classes=2)
    with torch.no_grad():
        model[2].injection.weight.abs_()
        model[2].injection.bias.fill_(0.5)
        model[3].weight.zero_()
        model[3].weight[0] = 1.0
        model[3].bias.zero_()
    x = testing.full((1, 2, 2), 0.5, dtype=torch.float64)
    with torch.no_grad():
        lowest = float(model(x[None] - 0.1)[0, 0])
        model[3].bias[1] = lowest - 1e-7
        assert PositiveVerifier(model).verify(x, 0, 0.1, norm="inf").status == "certified"
        model[3].bias[1] = lowest + 1e-7
        assert PositiveVerifier(model).verify(x, 0, 0.1, norm="inf").status == "unknown"
        model[3].bias[1] = lowest - 0.1
    verifier = PositiveVerifier(model)
    assert verifier.verify(x, 0, 0.1, norm="inf", allowance=0.09).status == "certified"
    assert verifier.verify(x, 0, 0.1, norm="inf", allowance=0.11).status == "unknown"


def test_small_balls_are_certified_nearly_to_the_linearised_radius():
    """Where the network is nearly linear, slopes on the hull lose nearly nothing."""
    model = model_of("tanh", seed=1)
    x = testing.rand(1, 2, 3, dtype=torch.float64)
    with torch.no_grad():
        logits = model(x[None])[0]
        label, other = (int(k) for k in logits.topk(2).indices)
        model[3].bias[other] += (logits[label] - logits[other]) - 1e-5  # a margin so small that the radius is
    point = x[None].clone().requires_grad_()
    value = model(point)[0]
    (gradient,) = torch.autograd.grad(value[label] - value[other], point)
    exact = 1e-5 / float(gradient.norm())
    verifier = PositiveVerifier(model)
    assert verifier.verify(x, label, 0.98 * exact).status == "certified"
    assert verifier.verify(x, label, 1.02 * exact).status == "unknown"


def test_the_verifier_is_chosen_by_the_layer():
    assert verifier_of(model_of()).steps == ("global", "hull", "attack")
    assert isinstance(verifier_of(nn.Sequential(wp.MonDEQ(4, 3), nn.Linear(3, 2))), wp.Verifier)
    with pytest.raises(wp.CertificateError):
        verifier_of(nn.Sequential(nn.Linear(3, 2), nn.Softmax(1)))
    float32 = model_of(dtype=torch.float32)
    x = testing.rand(1, 2, 3)
    assert verifier_of(float32).verify(x, int(float32(x[None]).argmax()), 1e-3).status == "certified"
    wrong = int(float32(x[None]).argmin())
    assert verifier_of(float32).verify(x, wrong, 1e-3).status == "misclassified"
    for blocks in ([nn.Linear(6, 6)], []):
        with pytest.raises(wp.CertificateError):
            PositiveVerifier(nn.Sequential(*blocks, wp.PcDEQ(6, 4), nn.ReLU(), nn.Linear(4, 2)))
    with pytest.raises(wp.CertificateError, match="eval"):
        PositiveVerifier(nn.Sequential(wp.PcDEQ(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).train())

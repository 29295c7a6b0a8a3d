"""Verification of chains by constants: sound, exact where these are, and with an attack on the other side."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest
import torch
from torch import nn

import wellposed as wp
from wellposed import testing
from wellposed.cli.main import run as command
from wellposed.verification import ChainVerifier, IntervalVerifier, verifier_of
from wellposed.verification.base import RegionQuestion
from wellposed.verification.region import Region

ORDERS = {2: 2.0, "inf": float("inf")}


def scaled(*blocks):
    return nn.Sequential(wp.Normalize((0.5,), (0.25,)), *blocks).eval()


MODELS = {
    "orthogonal": lambda: scaled(nn.Flatten(), wp.OrthogonalDEQ(16, 8), nn.Linear(8, 3)),
    "orthogonal-images": lambda: scaled(
        wp.ConvOrthogonalDEQ(1, 4, (4, 4)), wp.UnitPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    ),
    "circular": lambda: scaled(wp.ConvMonDEQ(1, 2, (4, 4)), nn.Flatten(), nn.Linear(32, 3)),
    "circular-bounded": lambda: scaled(wp.ConvLBEN(1, 2, (4, 4)), nn.Flatten(), nn.Linear(32, 3)),
    "explicit": lambda: scaled(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)),
    "positive": lambda: scaled(nn.Flatten(), wp.PcDEQ(16, 8, activation="tanh"), nn.Linear(8, 3)),
    "positive-sharp": lambda: scaled(nn.Flatten(), wp.PcDEQ(16, 8, floor=1e-2, sharpness=5.0), nn.Linear(8, 3)),
    "intervals": lambda: scaled(nn.Flatten(), wp.NEMON(16, 8, activation="tanh"), nn.Linear(8, 3)),
}


def model_of(name, seed=0):
    torch.manual_seed(seed)
    model = MODELS[name]()
    with torch.no_grad():
        model[-1].weight.mul_(4.0)
    return model


@pytest.mark.parametrize("norm", ORDERS)
@pytest.mark.parametrize("name", MODELS)
def test_verdicts_are_sound(name, norm):
    model = model_of(name)
    verifier = verifier_of(model)
    assert type(verifier) is ChainVerifier
    x = testing.rand(12, 1, 4, 4, dtype=torch.float64)
    exact = model.double()
    predicted = exact(x).argmax(1)
    labels = predicted.clone()
    labels[0] = (labels[0] + 1) % 3
    seen = set()
    for radius in (0.02, 0.2, 2.0) if norm == 2 else (0.005, 0.05, 0.8):
        verdicts = verifier.verify_batch(x, labels.tolist(), radius, norm=norm)
        for k, verdict in enumerate(verdicts):
            seen.add(verdict.status)
            if k < 3:
                alone = verifier.verify(x[k], int(labels[k]), radius, norm=norm)
                assert (alone.status, alone.method) == (verdict.status, verdict.method)
            if verdict.status == "certified":
                noise = testing.randn(300, 1, 4, 4, dtype=torch.float64)
                noise = noise.sign() if norm == "inf" else noise
                size = torch.linalg.vector_norm(noise.flatten(1), ORDERS[norm], dim=1).reshape(-1, 1, 1, 1)
                near = x[k] + radius * noise / size
                near = near.clamp(0.0, 1.0) if norm == "inf" else near
                assert bool((exact(near).argmax(1) == labels[k]).all())
            if verdict.status == "falsified":
                found = verdict.counterexample
                away = torch.linalg.vector_norm((found - x[k]).flatten(), ORDERS[norm])
                assert float(away) <= radius and int(exact(found[None]).argmax()) != int(labels[k])
                assert norm == 2 or (float(found.min()) >= 0.0 and float(found.max()) <= 1.0)
        assert verdicts[0].status == "misclassified" and [v.status for v in verdicts].count("misclassified") == 1
    assert {"certified", "falsified"} <= seen


@pytest.mark.parametrize("norm", ORDERS)
def test_linear_models_are_decided_exactly(norm):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 4)).double()
    verifier = verifier_of(model, valid=None)
    x = testing.rand(8, 1, 3, 3, dtype=torch.float64)
    logits = model(x).detach()
    labels, weight = logits.argmax(1), model[1].weight.detach()
    rows = weight[labels][:, None] - weight
    size = rows.norm(dim=2) if norm == 2 else rows.abs().sum(2)
    distance = ((logits.gather(1, labels[:, None]) - logits) / size).nan_to_num(nan=torch.inf)
    distance = distance.scatter(1, labels[:, None], torch.inf).amin(1)
    for k in range(8):
        inside = verifier.verify(x[k], int(labels[k]), 0.999 * float(distance[k]), norm=norm)
        outside = verifier.verify(x[k], int(labels[k]), 1.01 * float(distance[k]), norm=norm)
        assert (inside.status, outside.status) == ("certified", "falsified")


def test_steps_allowances_and_refusals():
    model = model_of("intervals")
    verifier = ChainVerifier(model)
    assert verifier.steps == ("global", "embedding", "attack")
    assert ChainVerifier(model_of("orthogonal")).steps == ("global", "attack")
    x = testing.rand(1, 4, 4)
    label = int(model(x[None]).argmax())
    assert verifier.verify(x, label, 1e-4).method == "global"
    assert verifier.verify(x, label, 1e-4, allowance=100.0).status == "unknown"
    assert verifier.verify(x, label, 3.0, norm="inf", method="global").status == "unknown"
    assert verifier.verify_batch(x[:0, None], [], 0.1) == []
    for blocks in ([nn.Flatten(), wp.MonDEQ(16, 8)], [nn.Flatten(), nn.Linear(16, 3), nn.ReLU()], [nn.Softmax(1)]):
        with pytest.raises(wp.CertificateError):
            ChainVerifier(scaled(*blocks))


@pytest.mark.float32
def test_the_command_verifies_networks_without_a_ladder(tmp_path, capsys):
    run = str(tmp_path / "run")
    arguments = ["train", "orthogonal", "--data", "digits", "--epochs", "8", "--width", "16", "--out", run, "--json"]
    assert command(arguments) == 0
    capsys.readouterr()
    assert command(["certify", run, "--method", "ladder", "--eps", "0.05", "5.0", "--limit", "40", "--json"]) == 0
    shares = json.loads(capsys.readouterr().out)["shares"]
    assert shares["0.05"]["certified"] > 0.3 and shares["5"]["falsified"] > 0.3


@pytest.mark.parametrize("norm", ORDERS)
@pytest.mark.parametrize("radius", [1e-3, 1e-6, 1e-8, 1e-17])
def test_counterexamples_lie_inside_however_small_the_region_is(norm, radius):
    """In rational arithmetic: what rounds relative to the pixel must not count against the radius."""
    torch.manual_seed(0)
    x = testing.rand(12, dtype=torch.float64)
    region = Region.ball(x, radius) if norm == 2 else Region.box(x, radius, None)
    asked = RegionQuestion(x=x, label=0, radius=radius, region=region, allowance=0.0, shape=(12,), valid=None)
    for seed in range(50):
        torch.manual_seed(seed)
        found = asked.inside(x + 2.0 * radius * testing.randn(12, dtype=torch.float64))
        apart = [Fraction(a) - Fraction(b) for a, b in zip(found.tolist(), x.tolist(), strict=True)]
        if norm == 2:
            assert sum(part * part for part in apart) <= Fraction(radius) ** 2
        else:
            assert max(map(abs, apart)) <= Fraction(radius)


@pytest.mark.parametrize(
    "model", [nn.Sequential(nn.Linear(4, 3)), nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3))]
)
@pytest.mark.parametrize("known", [True, False])
def test_outputs_that_are_rows_are_no_logits(model, known):
    network = wp.materialise(model.eval(), (2, 4) if known else None)
    with pytest.raises(wp.InputError, match="logits must be a vector"):
        verifier_of(network).verify(testing.rand(2, 4), 0, 0.1)
    with pytest.raises(wp.InputError, match="logits must be a vector"):
        IntervalVerifier(network).verify(testing.rand(2, 4), 0, 0.1)
    for norm in (2, "inf", 1):
        certificate = wp.certify(network, norm=norm)
        assert (certificate.pairs is None) == known
        assert certificate.check()


def test_inputs_that_are_no_floating_point_numbers_are_named():
    verifier = verifier_of(nn.Sequential(nn.Linear(4, 3)).eval())
    with pytest.raises(wp.InputError, match=r"x: has dtype torch.int64.*x\.float\(\)"):
        verifier.verify(torch.ones(4, dtype=torch.int64), 0, 0.1)
    with pytest.raises(wp.InputError, match="x: has shape"):
        verifier.verify_batch(torch.ones(4), [0], 0.1)

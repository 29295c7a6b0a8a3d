"""Verification by intervals: boxes hold every sampled equilibrium, are attained where signs agree, and are proved."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import wellposed as wp
from wellposed import testing
from wellposed.cli.main import run as command
from wellposed.network.mixed_monotone import StateBoxes
from wellposed.verification import ChainVerifier, IntervalVerifier, verifier_of
from wellposed.verification.region import Region


def dense(activation="relu", mu=0.5, normalised=True, seed=0, dtype=torch.float64, units=7):
    torch.manual_seed(seed)
    layer = wp.NEMON(6, units, mu=mu, activation=activation, dtype=dtype)
    with torch.no_grad():
        layer.constraint.T.mul_(4.0)
        layer.constraint.log_weights.normal_(std=0.3)
    before = (wp.Normalize((0.3,), (0.5,)).to(dtype), nn.Flatten()) if normalised else ()
    return nn.Sequential(*before, layer, nn.Linear(units, 4, dtype=dtype)).eval()


def images(pool=2, stride=1, seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    layer = wp.ConvNEMON(2, 3, (5, 4), mu=0.6, stride=stride, dtype=dtype)
    with torch.no_grad():
        for parameter in layer.constraint.parameters():
            parameter.mul_(2.0)
    channels, rows, columns = layer.state_shape
    head = nn.Linear(channels * (rows // pool) * (columns // pool), 3, dtype=dtype)
    before = (wp.Normalize((0.3, 0.1), (0.5, 0.2)).to(dtype), nn.Flatten(), nn.Unflatten(1, (2, 5, 4)))
    return nn.Sequential(*before, layer, nn.AvgPool2d(pool), nn.Flatten(), head).eval()


def sampled(x, radius, norm, count=400):
    change = testing.randn(count, *x.shape, dtype=torch.float64)
    if norm == "inf":
        return (x + radius * change.sign()).clamp(0.0, 1.0)
    return x + radius * change / change.flatten(1).norm(dim=1).reshape(-1, *[1] * x.ndim)


@pytest.mark.parametrize("norm", ["2", "inf"])
@pytest.mark.parametrize(
    "model",
    [dense(), dense("tanh"), dense("softplus", mu=-0.5), dense("sigmoid", mu=0.9), images(), images(stride=2, pool=1)],
    ids=["relu", "tanh", "softplus", "sigmoid", "image", "strided image"],
)
@pytest.mark.filterwarnings("ignore::wellposed.errors.NotConvergedWarning")
def test_margins_and_states_stay_inside(model, norm):
    torch.manual_seed(1)
    shape = (2, 5, 4) if len(model) > 4 else (1, 6)
    verifier = IntervalVerifier(model)
    for radius in (1e-6, 0.03, 0.3):
        x = testing.rand(shape, dtype=torch.float64)
        label = int(model(x[None]).argmax())
        region = Region.ball(x, radius) if norm == "2" else Region.box(x, radius)
        low, high = (part[0] for part in verifier.margins(Region.stack([region]), shape, testing.tensor([label])))
        assert bool(torch.isfinite(low).sum() == len(low) - 1)
        logits = model(sampled(x, radius, norm))
        margins = logits[:, label : label + 1] - logits
        margins[:, label] = torch.inf
        assert bool((margins >= low - 1e-8).all())  # solves of the model stop within their tolerance
        margins[:, label] = -torch.inf
        assert bool((margins <= high + 1e-8).all())
        if radius == 1e-6:  # nothing is lost at a point
            finite = torch.isfinite(low)
            spread = (high - low)[finite]
            assert float(spread.amax()) < 1e-3
    assert verifier.verify(x, label, 1e-6, norm=norm).status == "certified"
    assert verifier.verify(x, label, 1e3, norm="2").status == "unknown"
    other = (label + 1) % verifier.classes
    assert verifier.verify(x, other, 1e-6, norm=norm).status == "misclassified"


def test_attained_by_a_network_without_signs():
    """All of W's other entries, U and the head's difference are nonnegative: the lower corner has the least margin."""
    model = dense(normalised=False)
    with torch.no_grad():
        layer, head = model
        layer.constraint.T.abs_()
        layer.injection.weight.abs_()
        layer.injection.bias.abs_()
        head.weight.copy_(testing.tensor([[3.0], [2.0], [1.0], [0.5]]).expand(4, 7))
        head.bias.copy_(testing.tensor([1.0, 0.0, 0.0, 0.0]))
    verifier = IntervalVerifier(model, valid=None)
    x = testing.rand(6, dtype=torch.float64) + 0.5
    region = Region.stack([Region.box(x, 0.2, None)])
    low = verifier.margins(region, (6,), testing.tensor([0]))[0][0]
    layer.tolerance = type(layer.tolerance)(1e-12, 1e-12)
    logits = model((x - 0.2)[None])[0]
    torch.testing.assert_close(low[1:], (logits[0] - logits)[1:], rtol=1e-4, atol=1e-6)


def test_a_box_is_proved_and_not_trusted():
    layer = dense("tanh")[2]
    boxes = StateBoxes("layer", layer.operator(), layer.activation)
    middle = layer.injection(testing.rand(1, 6, dtype=torch.float64)).detach()
    low, high = middle - 0.3, middle + 0.3
    lower, upper, proved = boxes.enclose(low, high)
    assert bool(proved.all())
    assert boxes.holds(lower, upper, low, high)
    middle = 0.5 * (lower + upper)
    assert not boxes.holds(middle, middle, low, high)
    assert not boxes.holds(lower + 1e-3, upper, low, high)
    assert not boxes.holds(lower, upper - 1e-3, low, high)
    assert not boxes.holds(upper, lower, low, high)
    assert not boxes.holds(lower, upper, low - 1.0, high)
    assert not boxes.holds(torch.full_like(lower, torch.nan), upper, low, high)


@pytest.mark.parametrize("norm", ["2", "inf"])
@pytest.mark.parametrize("model", [images(), dense("tanh"), dense("tanh", mu=0.99)], ids=["images", "tanh", "steep"])
def test_batches_are_those_of_single_inputs(model, norm):
    verifier = IntervalVerifier(model)
    torch.manual_seed(2)
    x = testing.rand(7, *((2, 5, 4) if len(model) > 4 else (1, 6)), dtype=torch.float64)
    labels = [k % verifier.classes for k in range(7)]
    allowances = [0.0, 0.0, 10.0, 0.0, 0.0, 0.0, 0.0]
    statuses = set()
    for radius in (1e-4, 0.05, 0.3):
        together = verifier.verify_batch(x, labels, radius, norm=norm, allowances=allowances)
        for k in range(7):
            alone = verifier.verify(x[k], labels[k], radius, norm=norm, allowance=allowances[k])
            assert (alone.status, alone.method) == (together[k].status, together[k].method)
            statuses.add(alone.status)
    assert {"certified", "misclassified"} <= statuses
    assert verifier.verify_batch(x[:0], [], 0.1) == []
    layer = next(block for block in model if isinstance(block, wp.Equilibrium))
    states = StateBoxes("layer", layer.operator(), layer.activation)
    middle = layer.injection(testing.rand(7, *layer.input_shape, dtype=torch.float64)).detach()
    low, high = middle - 0.1, middle + 0.1
    boxes = states.enclose(low, high)
    for at in range(7):
        for one, all_of_them in zip(states.enclose(low[at : at + 1], high[at : at + 1]), boxes, strict=True):
            torch.testing.assert_close(one[0], all_of_them[at], rtol=1e-5, atol=1e-5)


def test_the_strongest_verifier_is_chosen():
    assert type(verifier_of(dense())) is wp.Verifier
    assert type(verifier_of(dense("tanh"))) is ChainVerifier
    assert type(verifier_of(images())) is ChainVerifier
    positive = nn.Sequential(wp.PcDEQ(4, 3), nn.Linear(3, 2)).eval()
    assert type(verifier_of(positive)) is ChainVerifier and verifier_of(positive).steps == ("global", "hull", "attack")


def test_more_than_the_global_constant():
    """Intervals certify whatever the sensitivity G|U| of the margins does, and more."""
    model = dense("tanh", seed=3)
    with torch.no_grad():
        model[2].injection.weight.mul_(10.0)  # so that slopes differ
    verifier = IntervalVerifier(model, valid=None)
    x = testing.rand(30, 1, 6, dtype=torch.float64)
    logits = model(x)
    labels, layer = logits.argmax(1), model[2]
    moved = (layer.guarantee().sensitivity @ layer.injection.weight.abs()).sum(1) / 0.5
    rows = model[3].weight[labels][:, None] - model[3].weight
    margins = logits.gather(1, labels[:, None]) - logits
    radii = (margins / (rows.abs() @ moved)).nan_to_num(torch.inf).amin(1).detach()
    more = 0
    for image, label, radius in zip(x, labels.tolist(), radii.tolist(), strict=True):
        if radius > 0.0:
            assert verifier.verify(image, label, radius * (1 - 1e-5), norm="inf").status == "certified"
            more += verifier.verify(image, label, 1.2 * radius, norm="inf").status == "certified"
    assert more > 5


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Sequential(wp.ConvMonDEQ(1, 2, (4, 4)), nn.Flatten(), nn.Linear(32, 2)), "zero-padded"),
        (nn.Sequential(wp.NEMON(4, 3, activation="gelu"), nn.Linear(3, 2)), "increasing"),
        (
            nn.Sequential(nn.Flatten(), wp.OrthogonalDEQ(16, 8), nn.Linear(8, 3)),
            "no interval is known for a OrthogonalDEQ",
        ),
        (nn.Sequential(wp.OrthogonalConv2d(1, 2, (4, 4)), nn.Flatten(), nn.Linear(32, 2)), "no interval"),
    ],
)
def test_refusals(model, words):
    with pytest.raises(wp.CertificateError, match=words):
        IntervalVerifier(model.eval())


def test_layers_whose_box_does_not_close_are_left_open():
    """A monotone layer is well posed, but its absolute values need not be."""
    torch.manual_seed(0)
    layer = wp.MonDEQ(3, 6, m=0.3, dtype=torch.float64)
    with torch.no_grad():
        layer.constraint.B.mul_(3.0)
    model = nn.Sequential(layer, nn.Linear(6, 2, dtype=torch.float64)).eval()
    x = testing.rand(3, dtype=torch.float64)
    label = int(model(x[None]).argmax())
    assert IntervalVerifier(model, valid=None).verify(x, label, 0.1, norm="inf").status == "unknown"


@pytest.mark.float32
def test_the_command_line(tmp_path, capsys):
    run = str(tmp_path / "run")
    options = ["--data", "digits", "--epochs", "4", "--width", "4", "--stride", "1", "--mu", "0.5"]
    assert command(["train", "nemon-conv", *options, "--out", run, "--json"]) == 0
    capsys.readouterr()
    ladder = ["certify", run, "--method", "ladder", "--norm", "linf", "--eps", "0.001", "--limit", "30", "--json"]
    assert command(ladder) == 0
    shares = json.loads(capsys.readouterr().out)["shares"]["0.001"]
    assert shares["certified"] > 0.2 and shares["falsified"] == 0.0

"""Training by intervals: bounds hold for every sampled image, are those that are proved, and have the right gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import wellposed as wp
from wellposed import testing
from wellposed.cli.main import run as command
from wellposed.data import load_images
from wellposed.layers.interval import state_interval
from wellposed.models import FAMILIES
from wellposed.training.config import TrainConfig
from wellposed.training.run import load_image_run
from wellposed.training.worst_case import worst_logits

SIZE = (2, 5, 4)


def dense(mu=0.5, activation="relu", seed=0):
    torch.manual_seed(seed)
    layer = wp.NEMON(40, 7, mu=mu, activation=activation, dtype=torch.float64, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        layer.constraint.T.mul_(4.0)
        layer.constraint.log_weights.normal_(std=0.3)
    norm = wp.Normalize((0.3, 0.1), (0.5, 0.2)).double()
    return nn.Sequential(norm, nn.Flatten(), layer, nn.Linear(7, 4, dtype=torch.float64))


def convolutional(stride=1, seed=0):
    torch.manual_seed(seed)
    layer = wp.ConvNEMON(2, 3, SIZE[1:], mu=0.6, stride=stride, dtype=torch.float64, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        for parameter in layer.constraint.parameters():
            parameter.mul_(2.0)
    channels, rows, columns = layer.state_shape
    head = nn.Linear(channels * (rows // 2) * (columns // 2), 4, dtype=torch.float64)
    return nn.Sequential(wp.Normalize((0.3,), (0.5,)).double(), layer, nn.AvgPool2d(2), nn.Flatten(), head)


MODELS = {
    "dense": dense, "tanh": lambda: dense(activation="tanh"), "steep": lambda: dense(mu=0.95), "images": convolutional,
    "strided": lambda: convolutional(stride=2),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_no_sampled_image_is_worse(name):
    model = MODELS[name]()
    torch.manual_seed(1)
    x, labels = testing.rand(3, *SIZE, dtype=torch.float64), testing.tensor([0, 2, 3])
    for radius in (0.0, 0.03, 0.3):
        worst = worst_logits(model, x, labels, radius)
        signs = testing.rand(400, 1, *SIZE, dtype=torch.float64) * 2 - 1
        signs[:200] = signs[:200].sign()
        points = (x + radius * signs).clamp(0, 1).flatten(0, 1)
        logits = model(points).reshape(400, 3, -1)
        margins = logits - logits.gather(2, labels.expand(400, 3)[:, :, None])
        assert bool((margins <= worst + 1e-9).all())
        if radius == 0.0:
            torch.testing.assert_close(margins[0], worst, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_boxes_are_those_that_are_proved(name):
    """The verifier looks for the same fixed point by its own iteration, and proves it."""
    model = MODELS[name]().eval()
    place = next(k for k, block in enumerate(model) if isinstance(block, wp.Equilibrium))
    torch.manual_seed(1)
    x = testing.rand(2, *SIZE, dtype=torch.float64)
    low, high = state_interval(model[place], *(model[:place](part) for part in (x, x + 0.1)))
    proved = x, x + 0.1
    for block in wp.materialise(model).blocks[: place + 1]:
        proved = block.interval(*proved)
    torch.testing.assert_close(low, proved[0], rtol=0, atol=1e-3)
    torch.testing.assert_close(high, proved[1], rtol=0, atol=1e-3)
    # The proved box is made a little wider before it is proved.
    assert bool((proved[0] <= low).all() and (proved[1] >= high).all())


def test_box_is_attained_where_everything_is_positive():
    layer = dense()[2]
    with torch.no_grad():
        layer.constraint.T.abs_()
        layer.injection.weight.abs_()
    low, high = testing.rand(3, 40, dtype=torch.float64), 1.0 + testing.rand(3, 40, dtype=torch.float64)
    below, above = state_interval(layer, low, high)
    torch.testing.assert_close(below, layer(low), rtol=0, atol=1e-10)
    torch.testing.assert_close(above, layer(high), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["tanh", "images"])
def test_gradients(name):
    model = MODELS[name]()
    torch.manual_seed(1)
    x, labels = testing.rand(2, *SIZE, dtype=torch.float64), testing.tensor([1, 3])
    parameters = dict(model.named_parameters())

    def loss():
        return nn.functional.cross_entropy(worst_logits(model, x, labels, 0.02), labels)

    found = torch.autograd.grad(loss(), list(parameters.values()))
    for (key, parameter), gradient in zip(parameters.items(), found, strict=True):
        direction = torch.randn_like(parameter)
        values = []
        for step in (-1e-6, 1e-6):
            with torch.no_grad():
                parameter.add_(step * direction)
                values.append(float(loss()))
                parameter.sub_(step * direction)
        slope = (values[1] - values[0]) / 2e-6
        assert float((gradient * direction).sum()) == pytest.approx(slope, rel=1e-5, abs=1e-8), key


def test_what_has_no_intervals_is_refused():
    x, labels = testing.rand(1, *SIZE), testing.zeros(1, dtype=torch.long)
    flat = (nn.Flatten(), wp.MonDEQ(40, 5), nn.Linear(5, 3))
    with pytest.raises(wp.GuaranteeError, match="μ∞"):
        worst_logits(nn.Sequential(*flat), x, labels, 0.1)
    with pytest.raises(wp.InputError, match="linear head"):
        worst_logits(nn.Sequential(*flat[:2]), x, labels, 0.1)
    for model in (flat[1], nn.Sequential()):
        with pytest.raises(wp.InputError, match="linear head"):
            worst_logits(model, x, labels, 0.1)
    with pytest.raises(wp.InputError, match="MaxPool2d"):
        worst_logits(nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, 3)), x, labels, 0.1)


@pytest.mark.float32
def test_the_command_trains_for_certificates(tmp_path, capsys):
    shares = {}
    for radius in ("0", "0.05"):
        run = tmp_path / f"run{radius}"
        options = ["--data", "digits", "--epochs", "8", "--batch-size", "64", "--width", "16", "--box-radius", radius]
        assert command(["train", "nemon", *options, "--out", str(run), "--json"]) == 0
        _, data, model = load_image_run(run)
        worst = worst_logits(model, data.test_x, data.test_y, 0.05).scatter(1, data.test_y[:, None], -torch.inf)
        shares[radius] = float((worst.amax(1) < 0).float().mean())
    assert shares["0.05"] >= shares["0"] + 0.15
    assert command(["train", "mondeq", "--data", "digits", "--box-radius", "0.1", "--out", str(tmp_path / "no")]) == 2
    assert "no intervals are known for mondeq" in capsys.readouterr().err


def test_penalties_are_about_constants_that_certificates_multiply():
    images = load_images("digits")
    nemon, mondeq = FAMILIES["nemon"](width=5), FAMILIES["mondeq"](width=5)
    for family in (nemon, mondeq):
        model = family.model(images)
        _, _, layer, head = model
        norms = [float(torch.linalg.matrix_norm(part.weight.detach(), 2)) for part in (layer.injection, head)]
        assert float(family.constant(model, "2")) == pytest.approx(norms[0] * norms[1], rel=1e-5)
    model = nemon.model(images)
    _, _, layer, head = model
    for norm in ("inf", "1"):
        bound = nemon.constant(model, norm)
        assert torch.equal(bound, layer.gain(head.weight, norm=norm)) and bound.requires_grad
        points = torch.rand(200, *images.shape)
        with torch.no_grad():
            moved, apart = (part[1:] - part[:-1] for part in (model(points), (points / model[0].std).flatten(1)))
        slopes = [torch.linalg.vector_norm(part, float(norm), dim=1) for part in (moved, apart)]
        assert float((slopes[0] / slopes[1]).max()) <= float(bound) * (1 + 1e-2)
    with pytest.raises(wp.InputError, match="only 2"):
        TrainConfig(family=mondeq, penalty_norm="inf")

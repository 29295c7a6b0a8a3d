"""Regression: networks that estimate numbers are trained, their error and steepness certified, from the command line too."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import wellposed as wp
from wellposed import testing
from wellposed.cli.main import run as command
from wellposed.data import Classification, Regression, load_images, load_vectors
from wellposed.data.tasks import in_words
from wellposed.experiments.regression import certify_estimates
from wellposed.models.families import FAMILIES
from wellposed.names import DATA_SETS, inputs_of
from wellposed.training.best_epoch import BestEpoch
from wellposed.training.config import TrainConfig
from wellposed.training.loaders import build_model, load_data
from wellposed.training.module import TaskModule
from wellposed.training.run import load_run

pytestmark = pytest.mark.float32


def test_the_set_is_one_function_and_the_same_every_time():
    data, again = load_vectors("function-estimation"), load_vectors("function-estimation")
    for x, y in ((data.train_x, data.train_y), (data.test_x, data.test_y)):
        wanted = [5.0 * math.cos(math.pi * v) * math.exp(-abs(v) / 2.0) for v in x[:, 0].tolist()]
        assert torch.allclose(y[:, 0], torch.tensor(wanted), atol=1e-5)
    assert torch.equal(data.train_x, again.train_x) and data.shape == (1,) and data.task == Regression(1)
    assert data.std[0] == pytest.approx(float(data.train_x.std()), rel=0.05)  # of the uniform distribution
    fine = torch.linspace(-5.0, 5.0, 200_001, dtype=torch.float64)
    values = 5.0 * torch.cos(math.pi * fine) * torch.exp(-0.5 * fine.abs())
    slopes = (values.diff() / fine.diff()).abs()
    assert slopes.max().item() == pytest.approx(12.86, abs=0.01)
    with pytest.raises(wp.InputError, match="needs a run on images"):
        data.as_images("data=x")
    assert data.divided(0.1).as_vectors("x").validation_y.shape == (200, 1)


def test_tasks_against_their_definitions():
    logits, labels = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 1.0]]), torch.tensor([0, 1, 1])
    assert Classification.score_of(logits, labels).item() == pytest.approx(2 / 3)
    losses = [math.log(1 + math.exp(-2)), math.log(1 + math.exp(-1)), math.log(1 + math.exp(2))]
    assert Classification(2).loss(logits, labels).item() == pytest.approx(sum(losses) / 3, rel=1e-5)
    outputs, targets = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [1.0]])
    assert Regression(1).loss(outputs, targets).item() == Regression.score_of(outputs, targets).item() == 2.5
    assert Regression.is_worse(2.0, 1.0) and not Regression.is_worse(1.0, 1.0) and Classification.is_worse(0.1, 0.2)
    assert in_words({"test/mean_squared_error": 0.25, "test/loss": 1.0}, "test") == "root mean squared error 0.5"
    assert in_words({"test/accuracy": 0.25}, "test") == "accuracy 25.00 %"
    assert load_images("digits").task == Classification(10)


def test_the_epoch_with_the_least_error_is_kept():
    model = nn.Linear(1, 1)
    best = BestEpoch(model, choose=True, task=Regression(1))
    for epoch, error in enumerate([0.9, 0.2, 0.4]):
        nn.init.constant_(model.weight, epoch)
        metrics = {"validation/mean_squared_error": torch.tensor(error)}
        best.on_train_epoch_end(SimpleNamespace(callback_metrics=metrics, current_epoch=epoch), None)
    best.restore()
    assert best.epoch == 1 and model.weight.item() == 1.0


def test_settings_fit_the_inputs():
    assert {inputs_of(name) for names in DATA_SETS.values() for name in names} == {"images", "vectors", "graphs"}
    config = TrainConfig(FAMILIES["nemon"](), "function-estimation")
    assert config.inputs == "vectors"
    for family in ("nemon-conv", "ignn", "convolutional"):
        with pytest.raises(wp.InputError, match="function-estimation"):
            TrainConfig(FAMILIES[family](), "function-estimation")
    for changes in ({"augment": True}, {"box_radius": 0.1}):
        with pytest.raises(wp.InputError, match=next(iter(changes))):
            replace(config, **changes)
    with pytest.raises(wp.InputError, match="box_radius=0.1: bounds the logits of classes"):
        TrainConfig(FAMILIES["nemon"](), "pictures.npz", task="regression", box_radius=0.1)
    with pytest.raises(wp.InputError, match="temperature"):
        TaskModule(nn.Linear(1, 1), replace(config, temperature=2.0), 1, Regression(1))


@pytest.mark.parametrize(
    "family", ["mondeq", "lben", "nemon", "pcdeq1", "orthogonal", "deq", "feedforward", "sandwich"]
)
def test_dense_families_take_vectors(family):
    config = TrainConfig(FAMILIES[family](width=6), "function-estimation")
    data = load_data(config, None)
    model = build_model(config, data)
    outputs = model(data.test_x[:5])
    assert outputs.shape == (5, 1)
    scaled = (data.test_x[:5] - data.mean[0]) / (data.std[0] if config.family.scales_input else 1.0)
    assert torch.allclose(model[3:](scaled), outputs, atol=1e-4)


def test_a_function_is_estimated_and_its_slope_certified(tmp_path, capsys):
    out = tmp_path / "run"
    options = [
        "--data",
        "function-estimation",
        "--epochs",
        "25",
        "--width",
        "30",
        "--learning-rate",
        "0.03",
    ]
    assert command(["train", "nemon", *options, "--out", str(out), "--json"]) == 0
    trained = json.loads(capsys.readouterr().out)
    assert command(["certify", str(out), "--norm", "linf", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    data, model = load_run(out)[1:]
    with torch.no_grad():
        values = model.double()(data.test_x.double())
        fine = torch.linspace(-6.0, 6.0, 40_001, dtype=torch.float64)
        slopes = (model(fine[:, None])[:, 0].diff() / fine.diff()).abs()
    error = float((values - data.test_y).square().mean().sqrt())
    assert (
        found["error"]
        == pytest.approx(error, rel=1e-4)
        == pytest.approx(trained["test/mean_squared_error"] ** 0.5, rel=1e-3)
    )
    assert error < 0.8 * float(data.test_y.std())
    assert found["lower_bound"] <= found["slope"] and float(slopes.max()) <= found["slope"] * (1.0 + 1e-6)
    assert found["lower_bound"] >= 0.9 * float(slopes.max())
    assert found["unfiled"] == "" and (out / "slope-inf.json").exists()
    assert command(["verify", str(out / "certificate-inf.json"), str(out / "model.onnx")]) == 0
    capsys.readouterr()
    assert command(["certify", str(out), "--limit", "100"]) == 0
    assert "root mean squared error" in capsys.readouterr().out
    for refused in (["certify", str(out), "--deployed"], ["attack", str(out)]):
        assert command(refused) == 2 and "accuracy" not in capsys.readouterr().out
    assert command(["compare", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "slope at most" in shown and "accuracy" not in shown


def test_classes_are_not_estimated(tmp_path):
    command(["train", "mondeq", "--data", "digits", "--epochs", "1", "--width", "5", "--out", str(tmp_path / "run")])
    with pytest.raises(wp.InputError, match="tells classes apart"):
        certify_estimates(tmp_path / "run", data_root=None, limit=None, done=lambda count: None)


def table_of(folder, size, shift):
    """A smooth function of two columns, in a unit of its own."""
    x = testing.randn(200, 2).double()
    y = size * (torch.sin(2.0 * x[:, 0]) + x[:, 1]) + shift
    path = folder / f"size-{size:g}.csv"
    rows = "\n".join(f"{a},{b},{c!r}" for (a, b), c in zip(x.tolist(), y.tolist(), strict=True))
    path.write_text(f"a,b,y\n{rows}\n", encoding="utf-8")
    return path, float(y.std())


TABLE = ["--target", "y", "--task", "regression", "--epochs", "15", "--width", "10", "--learning-rate", "0.05"]


@pytest.mark.parametrize("family", ["mondeq", "lben"])  # of which the latter ends in no linear map of its own
def test_targets_of_any_size_are_learned_and_slopes_are_in_their_units(family, tmp_path, capsys):
    found = {}
    for size, shift in ((1e4, 3e5), (1e-4, 0.02)):
        torch.manual_seed(0)
        path, spread = table_of(tmp_path, size, shift)
        out = tmp_path / f"{family}-{size:g}"
        assert (
            command(["train", family, "--data", str(path), *TABLE, "--batch-size", "16", "--out", str(out), "--json"])
            == 0
        )
        trained = json.loads(capsys.readouterr().out)
        assert command(["certify", str(out), "--json"]) == 0
        found[size] = report = json.loads(capsys.readouterr().out)
        assert report["error"] < 0.6 * spread and trained["test/mean_squared_error"] ** 0.5 == pytest.approx(
            report["error"], rel=1e-3
        )
        _, data, model = load_run(out)
        with torch.no_grad():
            step = 0.01 * torch.tensor([[0.0, 1.0]])
            slopes = (model(data.test_x + step) - model(data.test_x)).abs() / 0.01
        assert 0.3 * size < float(slopes.max()) <= report["slope"] * (1.0 + 1e-3)
        assert command(["verify", str(out / "certificate.json"), str(out / "model.onnx")]) == 0
        capsys.readouterr()
    assert found[1e4]["slope"] == pytest.approx(1e8 * found[1e-4]["slope"], rel=0.3)


def test_an_estimate_no_better_than_the_mean_is_said_to_be_none(tmp_path, capsys):
    x, noise = testing.randn(120, 2), testing.randn(120)
    path = tmp_path / "noise.npz"
    np.savez(path, x_train=x[:60].numpy(), y_train=noise[:60].numpy(), x_test=x[60:].numpy(), y_test=noise[60:].numpy())
    words = ["--task", "regression", "--width", "12", "--epochs", "30", "--learning-rate", "0.05", "--validation", "0"]
    assert command(["train", "mondeq", "--data", str(path), *words, "--out", str(tmp_path / "run"), "--json"]) == 0
    capsys.readouterr()
    assert command(["certify", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    spread = float(noise[60:].double().std(correction=0))
    assert "it is no closer to the targets than whoever always says their mean" in said and f"{spread:.4g}" in said


def test_a_family_is_trained_in_units_from_python_too():
    x = testing.randn(200, 2).float()
    y = 1e5 + 1e4 * x[:, :1]
    found = wp.train("mondeq", (x.numpy(), y.numpy()), task="regression", epochs=25, learning_rate=0.03, batch_size=32)
    assert found.metrics["test/mean_squared_error"] ** 0.5 < 0.3e4
    assert 0.7e4 < found.certify().lipschitz < 3e4
    with pytest.raises(wp.WellposedError, match="nothing to estimate"):
        wp.train("mondeq", (x.numpy(), torch.ones(200).numpy()), task="regression")

"""The published results on real MNIST: minutes of training, so run by ``make test-slow``.

The data are looked for as the command line does: under WELLPOSED_DATA, then in the cache, then on the network.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

import wellposed as wp
from wellposed import testing
from wellposed.cli.main import run as command
from wellposed.experiments.results import read_attacked, read_certified
from wellposed.training.folder import read_metrics
from wellposed.training.run import load_image_run

pytestmark = [pytest.mark.float32, pytest.mark.slow, pytest.mark.timeout(1800)]

# Pixels are divided by this, so a constant per normalised pixel is this much smaller than one per pixel.
_DEVIATION = 0.3081


def trained(preset: str, tmp_path_factory: pytest.TempPathFactory, family: str = "mondeq") -> Path:
    run = tmp_path_factory.mktemp("runs") / preset
    assert command(["train", family, "--preset", preset, "--out", str(run), "--json"]) == 0
    assert command(["certify", str(run), "--json"]) == 0
    return run


def tightening(run: Path) -> float:
    """By how much class-pair constants are below twice ‖W_o‖‖U‖/m, m from the symmetric part of I − W, on average."""
    _, _, model = load_image_run(run)
    layer = next(part for part in model.modules() if isinstance(part, wp.Equilibrium))
    head = layer.output if layer.output is not None else list(model)[-1]
    matrix, maps = layer.operator().dense().detach().double(), (layer.injection.weight, head.weight)
    m = float(torch.linalg.eigvalsh(testing.eye(len(matrix)) - 0.5 * (matrix + matrix.t()))[0])
    published = math.prod(float(torch.linalg.matrix_norm(part.detach().double(), 2)) for part in maps) / m / _DEVIATION
    pairs = json.loads((run / "certificate.json").read_text())["pairs"]
    ratios = [2 * published / value for i, row in enumerate(pairs) for j, value in enumerate(row) if i != j]
    return sum(ratios) / len(ratios)


@pytest.fixture(scope="module")
def smooth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained("mnist-smooth", tmp_path_factory)


def test_small_lipschitz_constant_at_the_published_error(smooth):
    certified = read_certified(smooth)
    assert certified.test_error <= 0.044
    assert certified.lipschitz * _DEVIATION <= 3.84
    assert len({name for name, _, _ in certified.constants}) >= 3


def test_certified_accuracy_beats_the_published_one(smooth):
    certified = read_certified(smooth)
    assert len(certified.radii["paper"]) == 10_000
    paper, pairs = certified.accuracy(0.2, "paper"), certified.accuracy(0.2, "pairs")
    assert paper >= 0.51
    assert pairs > paper


def test_attacks_stay_outside_of_every_certified_radius(smooth, capsys):
    assert command(["attack", str(smooth), "--limit", "500", "--json"]) == 0  # fails on any contradiction
    attacked, certified = read_attacked(smooth), read_certified(smooth)
    for radius in (0.05, 0.1, 0.2, 0.3, 0.5):
        assert (
            certified.accuracy(radius, "pairs", 500)
            <= attacked.accuracy(radius)
            < certified.accuracy(0.0, "pairs", 500) + 0.05
        )


@pytest.mark.parametrize(("preset", "gamma", "error"), [("lben-1", 1.0, 0.024), ("lben-5", 5.0, 0.0185)])
def test_lipschitz_bounded_networks(preset, gamma, error, tmp_path_factory):
    run = trained(preset, tmp_path_factory, family="lben")
    certified = read_certified(run)
    assert certified.test_error <= error
    assert certified.lipschitz * _DEVIATION <= gamma * (
        1 + 1e-5
    )  # the standard deviation is stored in single precision
    assert certified.lower_bound <= certified.lipschitz <= 1.05 * certified.lower_bound
    assert tightening(run) >= 30.0


@pytest.mark.parametrize("preset", ["pcdeq1-tanh", "pcdeq1-softsign", "pcdeq2"])
def test_positive_concave_networks(preset, tmp_path_factory):
    run = trained(preset, tmp_path_factory, family=preset.partition("-")[0])
    assert read_certified(run).test_error <= 0.02


def test_non_euclidean_network(tmp_path_factory):
    assert read_certified(trained("nemon", tmp_path_factory, family="nemon")).test_error <= 1 - 0.9773


def test_orthogonal_network(tmp_path_factory):
    certified = read_certified(trained("orthogonal", tmp_path_factory, family="orthogonal"))
    assert certified.test_error <= 0.03
    assert certified.lipschitz <= 1  # pixels to logits
    assert certified.accuracy(0.2) >= 0.85


def test_accurate_model_errs_on_at_most_two_percent_and_gains_by_metrics(tmp_path_factory):
    run = trained("mnist-accurate", tmp_path_factory)
    certified = read_certified(run)
    assert certified.test_error <= 0.02
    assert tightening(run) >= 2.5
    assert certified.accuracy(0.2) >= 0.75 > 0.5 > certified.accuracy(0.2, "paper")


def test_network_of_the_published_curves_gains_by_metrics(tmp_path_factory, capsys):
    run = trained("mnist-plain", tmp_path_factory)
    certified = read_certified(run)
    assert certified.test_error <= 0.044
    assert tightening(run) >= 2.5
    assert certified.accuracy(0.2) >= 0.88 > 0.55 > certified.accuracy(0.2, "paper")
    capsys.readouterr()
    ladder = ["certify", str(run), "--method", "ladder", "--norm", "linf", "--eps", "0.05", "--limit", "100", "--json"]
    assert command([*ladder, "--seconds", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["shares"]["0.05"]["certified"] >= 0.47


@pytest.mark.parametrize(
    ("preset", "least"),
    [
        ("nemon-robust", {"0.01": 0.94, "0.02": 0.92, "0.05": 0.76}),
        ("nemon-certified", {"0.01": 0.94, "0.05": 0.87, "0.1": 0.75}),
    ],
)
def test_networks_trained_for_the_max_norm(preset, least, tmp_path_factory, capsys):
    run = trained(preset, tmp_path_factory, family="nemon")
    capsys.readouterr()
    ladder = [
        "certify",
        str(run),
        "--method",
        "ladder",
        "--norm",
        "linf",
        "--limit",
        "100",
        "--seconds",
        "10",
        "--json",
    ]
    assert command([*ladder, "--eps", *least]) == 0
    shares = json.loads(capsys.readouterr().out)["shares"]
    for radius, share in least.items():
        assert shares[radius]["certified"] >= share


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("family", "accuracy"),
    [
        ("mondeq-conv", 0.988), ("mondeq-multi", 0.989), ("lben-conv", 0.988), ("nemon-conv", 0.988), ("pcdeq-conv", 0.988),
        ("pcdeq-multi", 0.988),
    ],
)  # fmt: skip
def test_convolutional_networks(family, accuracy, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / family
    assert command(["train", family, "--preset", family, "--out", str(run), "--json"]) == 0
    assert command(["certify", str(run), "--limit", "1000", "--json"]) == 0
    certified = read_certified(run)
    assert certified.test_error <= 0.015  # of the first thousand
    assert read_metrics(run)[-1]["test/accuracy"] >= accuracy
    assert 0.0 < certified.lower_bound <= certified.lipschitz

"""Recipes of the figures about monotone networks: what they measure is what independent computations give."""

from __future__ import annotations

import itertools
import math
import os
from pathlib import Path

import pytest
import torch
from torch import nn

import wellposed as wp
from wellposed import testing
from wellposed.comparison.baselines import linear_maps, seqlip
from wellposed.comparison.explicit_risk import neyshabur_log10, unrolled_log10
from wellposed.comparison.image_seqlip import image_seqlip
from wellposed.comparison.unrolled import unrolled
from wellposed.data import load_images
from wellposed.models.families import ConvolutionalFamily, FeedForwardFamily, MonDEQFamily
from wellposed.reproduction.cell import Cell, Record, Workspace, record_of
from wellposed.reproduction.collection import RECIPES
from wellposed.reproduction.networks import settings_of
from wellposed.reproduction.papers.monotone import attacked, deep, dense, images, margins, retrained, risk, unrolling
from wellposed.reproduction.papers.monotone.showing import mean_curve
from wellposed.reproduction.view import Figure, Table
from wellposed.training.config import TrainConfig


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return Workspace(tmp_path_factory.mktemp("recipes"), None)


def on_digits(family, epochs=20):
    return settings_of(TrainConfig(family, "digits", epochs=epochs, validation=0.0))


def chain(*sizes, seed=0):
    torch.manual_seed(seed)
    layers = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b, bias=False), nn.ReLU())]
    return nn.Sequential(*layers[:-1]).double()


def test_greedy_seqlip_of_images_is_that_of_matrices():
    for seed in range(4):
        model = chain(5, 7, 6, 3, seed=seed)
        exact, found = seqlip(model), image_seqlip(model, (5,), rank=10)
        assert not found.certified
        assert 0.7 * exact.value <= found.value <= exact.value * (1 + 1e-8)
    assert image_seqlip(chain(4, 3), (4,)).value == pytest.approx(
        float(torch.linalg.matrix_norm(linear_maps(chain(4, 3))[0], 2))
    )


def test_greedy_seqlip_of_convolutions_is_that_of_their_matrices():
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(18, 3),
    ).double()  # fmt: skip
    units = torch.eye(36, dtype=torch.float64, device="cpu").reshape(36, 1, 6, 6)
    zero = torch.zeros(1, 1, 6, 6, dtype=torch.float64, device="cpu")
    first = (body[0](units) - body[0](zero)).flatten(1).t()
    inner = torch.eye(72, dtype=torch.float64, device="cpu").reshape(72, 2, 6, 6)
    second = (body[2](inner) - body[2](torch.zeros_like(inner[:1]))).flatten(1).t()
    dense_chain = nn.Sequential(nn.Linear(36, 72), nn.ReLU(), nn.Linear(72, 18), nn.ReLU(), nn.Linear(18, 3)).double()
    for place, weight in ((0, first), (2, second), (4, body[5].weight)):
        dense_chain[place].weight.data = weight.detach()
    greedy = seqlip(dense_chain, greedy=True).value
    product = math.prod(
        float(torch.linalg.matrix_norm(weight.detach(), 2)) for weight in (first, second, body[5].weight)
    )
    whole = image_seqlip(body, (1, 6, 6), rank=40).value
    truncated = image_seqlip(body, (1, 6, 6), rank=4).value
    assert (
        whole == pytest.approx(greedy, rel=0.1) and truncated <= product * (1 + 1e-9) and whole <= product * (1 + 1e-9)
    )
    assert truncated >= 0.9 * whole  # what is left out counts by its norm
    with pytest.raises(wp.CertificateError):
        image_seqlip(nn.Sequential(nn.ReLU(), nn.Linear(2, 2)), (2,))


def test_the_noise_of_the_published_bound_moves_no_output_by_a_quarter_of_the_margin():
    """σ of the repaired version is small enough, and the bound is what the formulas say with that σ."""
    model = chain(6, 5, 4, 3, seed=1)
    weights = [weight.detach() for weight in linear_maps(model)]
    radius, gamma, samples, delta, depth, width = 2.0, 10.0, 1000, 0.1, 3, 6
    norms = [float(torch.linalg.matrix_norm(weight, 2)) for weight in weights]
    beta = math.prod(norms) ** (1 / depth)
    rescaled = [weight * beta / norm for weight, norm in zip(weights, norms, strict=True)]
    # The member of the cover for which the noise is least, β̃^(d−1) = eβ^(d−1).
    tail = math.sqrt(2 * width * math.log(4 * depth * width))
    sigma = gamma / (4 * math.e**2 * depth * radius * math.e * beta ** (depth - 1)) / tail
    kl = sum(float(weight.square().sum()) for weight in rescaled) / (2 * sigma**2)
    members = depth * samples ** (1 / (2 * depth))
    expected = 4 * math.sqrt((kl + math.log(6 * samples * members / delta)) / (samples - 1))
    found = neyshabur_log10(weights, samples, radius=radius, gamma=gamma, delta=delta, version="repaired")
    assert found == pytest.approx(math.log10(expected), rel=1e-9)
    assert neyshabur_log10(weights, samples, radius=radius, gamma=gamma, delta=delta) < found  # with fewer units
    x = testing.randn(200, 6, dtype=torch.float64)
    x = radius * x / x.norm(dim=1, keepdim=True)

    def outputs(parts):
        value = x
        for part in parts[:-1]:
            value = (value @ part.t()).relu()
        return value @ parts[-1].t()

    for seed in range(20):
        torch.manual_seed(seed)
        noisy = [weight + sigma * testing.randn(*weight.shape, dtype=torch.float64) for weight in rescaled]
        assert float((outputs(noisy) - outputs(rescaled)).norm(dim=1).max()) <= gamma / 4


def test_bounds_of_very_deep_networks_are_numbers():
    deep_chain = [100.0 * torch.eye(4, dtype=torch.float64, device="cpu")] * 400
    found = neyshabur_log10(deep_chain, 100, radius=1.0, gamma=1.0, delta=0.1)
    assert 800 < found < 820  # the product alone is 10⁸⁰⁰
    with pytest.raises(wp.InputError, match="delta"):
        neyshabur_log10(deep_chain, 100, radius=1.0, gamma=1.0, delta=1.0)


def test_the_bound_of_unrolled_iterations_is_the_appendix():
    spectral, squares, h, samples = (1.5, 0.7, 1.2, 0.9), 12.0, 5, 4096
    depth, step, radius, gamma, delta = 7, 0.25, 3.0, 10.0, 0.1
    beta = 1.5
    inner = (depth - 1) * step * (math.e * beta / depth + 2 * math.e * beta + 3) + 1
    sigma = gamma / (4 * math.e**2 * radius * beta ** (depth - 1) * inner * math.sqrt(2 * h * math.log(16 * h)))
    budget = squares / (2 * sigma**2) + math.log(6 * samples * depth * samples ** (1 / 14) / delta)
    found = unrolled_log10(
        spectral, squares, h, samples, depth=depth, step=step, radius=radius, gamma=gamma, delta=delta
    )
    assert found == pytest.approx(math.log10(4 * math.sqrt(budget / (samples - 1))), rel=1e-9)


def test_the_published_stopping_rule_stops_where_it_says():
    torch.manual_seed(0)
    layer = wp.MonDEQ(4, 5, m=1.0)
    x = testing.randn(6, 4, dtype=torch.float64)
    network = unrolled(layer, "forward_backward", 0.1)
    depth = network.depth_within(x, 1e-3, 1000)
    states = [network.evaluate(x, d) for d in range(1, depth + 1)]
    pairs = itertools.pairwise([torch.zeros_like(states[0]), *states])
    changes = [float((b - a).norm()) / (1e-6 + float(b.norm())) for a, b in pairs]
    assert changes[-1] <= 1e-3 and min(changes[:-1]) > 1e-3
    assert network.depth_within(x, 1e-3, depth - 1) is None


def test_dense_and_deep_networks_are_bounded_and_certified(workspace):
    config = on_digits(MonDEQFamily(width=8, m=1.0))
    found = record_of(workspace, Cell(dense.dense_network, {"config": config, "limit": 60})).measured
    assert found["lower_bound"] <= found["lipschitz"] <= found["product"] and found["test_error"] < 60.0
    for depth in (2, 4):
        config = on_digits(FeedForwardFamily(width=8, depth=depth))
        found = record_of(workspace, Cell(deep.deep_network, {"config": config, "limit": 100})).measured
        assert found["lower_bound"] <= found["lipschitz"] <= found["product"]
        assert found["seqlip"] <= found["product"] * (1 + 1e-6)
        paper, better = found["certified"]["paper"], found["certified"]["sqrt2"]
        assert all(a <= b <= 100.0 - found["test_error"] for a, b in zip(paper, better, strict=True))
        assert paper == sorted(paper, reverse=True)


def test_attacks_are_no_better_than_certificates(workspace):
    config = on_digits(MonDEQFamily(width=8, m=5.0))
    found = attacked.attacked_network(workspace, config=config, images=20, steps=20)
    for certified, strong, plain in zip(
        found["certified_of_attacked"], found["attacked"], found["projected"], strict=True
    ):
        assert certified <= strong and certified <= plain
    assert found["attacked"][-1] < found["attacked"][0]


def test_convolutional_networks_are_bounded(workspace):
    config = on_digits(ConvolutionalFamily(width=3, depth=2, hidden=6))
    found = images.convolutional_network(workspace, config=config, limit=50, rank=8)
    assert 0.0 < found["lower_bound"] <= found["product"] and found["seqlip"] <= found["product"] * (1 + 1e-6)


def test_the_published_convolutional_network_has_its_layers():
    parts = ConvolutionalFamily(widths=(32, 32, 64, 64), hidden=100).build((3, 32, 32), 10)
    model = nn.Sequential(*parts)
    assert [part.stride[0] for part in parts if isinstance(part, nn.Conv2d)] == [1, 2, 1, 2]
    assert [part.out_features for part in parts if isinstance(part, nn.Linear)] == [100, 10]
    assert model(testing.randn(2, 3 * 32 * 32)).shape == (2, 10)
    odd = nn.Sequential(*ConvolutionalFamily(widths=(4, 4, 4), hidden=5).build((1, 7, 7), 3))
    assert odd(testing.randn(2, 49)).shape == (2, 3)


def test_unrolled_bounds_hold(workspace):
    config = on_digits(MonDEQFamily(width=8, m=1.0))
    found = unrolling.unrolled_bounds(
        workspace, config=config, algorithm="forward_backward", steps=[0.01, 0.1], images=20
    )
    certified = record_of(workspace, Cell(dense.dense_network, {"config": config, "limit": 60})).measured
    assert found["log10_direct"] == pytest.approx(math.log10(certified["product"] * certified["deviation"]), rel=1e-3)
    assert found["depth"][0] > found["depth"][1] and found["log10_bound"][1] > math.log10(
        certified["lower_bound"] * certified["deviation"]
    )


@pytest.fixture
def few_digits(monkeypatch):
    """Digits in the place of MNIST."""
    data = load_images("digits")
    monkeypatch.setattr(margins, "load_images", lambda name, root: data)
    return data


def test_networks_trained_to_a_margin(few_digits, workspace, monkeypatch):
    monkeypatch.setattr(margins, "_LIMIT", 300)  # a step of 10⁻⁴ takes a thousand iterations to change by 10⁻³
    explicit = margins.explicit_to_margin(workspace, depth=3, width=10, samples=200, gamma=2.0, epochs=500, seed=0)
    assert explicit["reached"] and explicit["margin_error"] < 0.1 and explicit["test_error"] < 30.0
    assert explicit["log10"]["published"] < explicit["log10"]["repaired"]
    extent = {"width": 10, "samples": 200, "gamma": 10.0, "epochs": 3}
    monotone = margins.monotone_to_margin(workspace, m=1.0, **extent, seed=0, steps=[0.1, 1e-4])
    assert not monotone["reached"] and monotone["epochs"] == 3 and monotone["margin_error"] >= 0.1
    assert monotone["log10"]["tightened"] < monotone["log10"]["repaired"]
    assert monotone["unrolled_log10"][0] > 0.0 and monotone["unrolled_log10"][1] is None
    records = [
        Record("explicit_to_margin", {"depth": 3}, explicit),
        Record("monotone_to_margin", {"m": 1.0, "steps": [0.1, 1e-4]}, monotone),
    ]
    shown = risk.figure_8(records)
    rows = {(row.setting, row.name): row for part in shown if isinstance(part, Table) for row in part.quantities}
    assert rows["α = 0.0001", "log₁₀ of the bound, unrolled"].remark == "The iterations do not settle."
    assert rows["m = 1", "test error, %"].remark.startswith("The margin was not reached")
    assert {part.name for part in shown if isinstance(part, Figure)} == {
        "monotone-fig8a",
        "monotone-fig8b",
        "monotone-fig8c",
    }


def test_networks_descend_to_a_margin_in_small_batches(few_digits, workspace):
    extent = {"depth": 3, "width": 10, "samples": 200, "gamma": 2.0, "epochs": 500, "seed": 0, "learning_rate": 0.1}
    three, two = (margins.explicit_to_margin(workspace, **extent, descent_of=8, maps=maps) for maps in (None, 2))
    assert three["reached"] and two["reached"] and two["log10"]["published"] < three["log10"]["published"]
    assert three["epochs"] != margins.explicit_to_margin(workspace, **extent)["epochs"]


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        (images.monotone_cell("mondeq-conv", 20.0, 2), "128 channels on 30 × 30 pixels, ours 24 behind a stride of 2"),
        (images.monotone_cell("mondeq-multi", 20.0, 1), "32, 64, 128 channels on 30 × 30 pixels, ours 12, 16 behind"),
        (images.published_cell(20.0, 1), "the published training is unknown, ours trained for 1 epoch"),
    ],
)
def test_a_network_is_compared_with_the_published_one(cell, says):
    record = Record("image_network", cell.settings, {"reached": True}, {})
    kind = cell.settings["config"]["family"]["name"]
    assert says in images.differing(images.PUBLISHED[kind], [record]).incomparable
    assert ("128 channels" in retrained.otherwise(record)) == (cell.settings["config"]["family"]["width"] == 128)


def test_curves_over_seeds():
    found = mean_curve("label", [1.0, 2.0], [[1.0, 5.0], [3.0, 5.0]])
    assert list(found.y) == [2.0, 5.0] and found.spread == pytest.approx([math.sqrt(2.0), 0.0])


def test_figures_share_their_networks():
    def configs(name):
        return {str(cell.settings["config"]) for cell in RECIPES[name].cells(False)}

    shared = {cell.name for cell in RECIPES["monotone-fig1a"].cells(False)}
    assert shared & {cell.name for cell in RECIPES["monotone-fig4a"].cells(False)}
    assert shared & {cell.name for cell in RECIPES["monotone-fig6"].cells(False)}
    assert configs("monotone-fig4b") <= configs("monotone-fig1a") | configs("monotone-fig1b")
    assert configs("monotone-fig7") <= configs("monotone-fig1b")


@pytest.mark.skipif("WELLPOSED_DATA" not in os.environ, reason="needs MNIST; set WELLPOSED_DATA")
def test_a_quick_recipe_on_mnist(tmp_path):
    place = Workspace(tmp_path, Path(os.environ["WELLPOSED_DATA"]))
    records = [record_of(place, cell) for cell in RECIPES["monotone-fig1a"].cells(True)[:1]]
    table, figure = RECIPES["monotone-fig1a"].view(records)
    assert table.quantities[2].published.value == 14.15 and 0.0 < table.quantities[2].mean < 60.0
    assert len(figure.series) == 4 and records[0].measured["test_error"] < 30.0

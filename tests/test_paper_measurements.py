"""What recipes of the LBEN and NEMON papers measure, in small, against other ways to compute it; plain perturbations."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

import wellposed as wp
from wellposed.attacks import plain_distances
from wellposed.models.families import FAMILIES
from wellposed.reproduction.cell import Record, Workspace
from wellposed.reproduction.collection import RECIPES
from wellposed.reproduction.measurements import accuracy, best_rule, by_seed, image_classifier
from wellposed.reproduction.networks import settings_of, trained
from wellposed.reproduction.papers.lben import attacks, bounds, cifar, well_posed
from wellposed.reproduction.papers.lben.ascent import ascended
from wellposed.reproduction.papers.lben.stepped import stepped
from wellposed.reproduction.papers.lben.stopped_early import StoppedEarly
from wellposed.reproduction.papers.nemon import classification, estimation, iterations, robust
from wellposed.reproduction.view import Figure, Table
from wellposed.training.config import TrainConfig
from wellposed.training.run import load_image_run

pytestmark = pytest.mark.float32

LBEN = TrainConfig(FAMILIES["lben"](width=8), "digits", epochs=8, learning_rate=0.02, validation=0.0)
NEMON = TrainConfig(FAMILIES["nemon"](width=8), "digits", epochs=8, learning_rate=0.02, validation=0.0)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return Workspace(tmp_path_factory.mktemp("papers"), None)


def record(measure, workspace, **settings):
    return Record(measure.__name__, settings, measure(workspace, **settings))


def test_plain_perturbations_against_a_linear_rule():
    """A pixel decides: bright ones are of class 1, so that inversion needs |x − ½| and a gradient step the margin's distance."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[0.0], [2.0]]))
        model[1].bias.copy_(torch.tensor([0.0, -1.0]))
    x = torch.tensor([0.1, 0.45, 0.8, 0.9])[:, None, None, None]
    labels = torch.tensor([0, 0, 1, 0])  # the last one is wrong
    sizes = [0.1, 0.3, 0.35, 0.6, 0.85]
    inverted = plain_distances(model, x, labels, sizes, name="inversion")
    assert inverted.tolist() == pytest.approx([0.6, 0.1, 0.35, 0.0], abs=1e-5)
    for norm in ("2", "inf"):
        stepped = plain_distances(model, x, labels, sizes, name="gradient-step", norm=norm)
        assert stepped.tolist() == pytest.approx([0.6, 0.1, 0.35, 0.0], abs=1e-5)
    noise = plain_distances(model, x, labels, [0.3, 0.6], name="noise")
    assert bool(((noise == 0.0) | (noise >= torch.tensor([0.4, 0.05, 0.3, 0.0]))).all()) and float(noise.max()) >= 0.0
    assert torch.equal(noise, plain_distances(model, x, labels, [0.3, 0.6], name="noise"))
    for wrong in ({"name": "nothing"}, {"name": "noise", "norm": "2"}):
        with pytest.raises(wp.InputError):
            plain_distances(model, x, labels, [0.1], **wrong)


def test_conditions_on_matrices_with_known_answers():
    rotation = torch.tensor([[0.0, 4.0], [-4.0, 0.0]], dtype=torch.float64)
    assert well_posed.conditions_of(rotation) == {
        "monotone": True, "row sums": False, "absolute values": False, "log norm": False,
    }  # fmt: skip
    damped = torch.tensor([[-9.0, 5.0], [5.0, -9.0]], dtype=torch.float64)
    assert well_posed.conditions_of(damped) == {
        "monotone": True, "row sums": False, "absolute values": False, "log norm": True,
    }  # fmt: skip
    triangular = torch.tensor([[0.0, 9.0], [0.0, 0.0]], dtype=torch.float64)
    assert well_posed.conditions_of(triangular) == {
        "monotone": False, "row sums": False, "absolute values": True, "log norm": True,
    }  # fmt: skip


def test_shares_of_random_matrices_are_ordered_as_the_theorems_say(workspace):
    for scale in (0.05, 0.5, 1.0, 3.0):
        found = well_posed.random_matrices(workspace, scale=scale, size=5, count=10, seed=0)
        chain = [found[key] for key in ("row sums", "absolute values", "log norm", "metric", "not refuted")]
        assert chain == sorted(chain) and found["monotone"] <= found["metric"]
    assert found["metric"] < 100.0
    assert well_posed.random_matrices(workspace, scale=1e-6, size=5, count=10, seed=0)["monotone"] == 100.0


def test_a_bounded_classifier_is_certified_and_attacked(workspace):
    settings = {
        "config": settings_of(LBEN), "radii": (0.05, 0.2), "limit": 100,
        "attack": {"images": 40, "steps": 5, "radii": [0.2, 1.0], "plain": ["gradient-step"]},
    }  # fmt: skip
    found = record(image_classifier, workspace, **settings)
    measured = found.measured
    _, data, model = load_image_run(trained(workspace, LBEN))
    with torch.no_grad():
        wrong = float((model(data.test_x[:100]).argmax(1) != data.test_y[:100]).double().mean())
    assert measured["test_error"] == pytest.approx(100.0 * wrong) and measured["test_error"] < 30.0
    assert measured["deviation"] == data.std[0]
    assert measured["lower_bound"] <= measured["lipschitz"] <= 1.0 / data.std[0] + 1e-6  # γ = 1 per normalised pixel
    assert best_rule(measured)[0] >= best_rule(measured)[1]
    for certified, pressed, moved in zip(
        measured["certified_of_attacked"],
        measured["attacked"],
        measured["plainly_attacked"]["gradient-step"],
        strict=True,
    ):
        assert certified <= min(pressed, moved)
    other = dataclasses.replace(found, settings={**settings, "config": {**settings["config"], "seed": 1}})
    assert by_seed([found, other]) == [[found, other]]
    for view in (bounds.bounds, bounds.widths, attacks.curves, cifar.dense_view):
        narrow = {**measured, "certified": {"pairs": [1.0, 1.0, 1.0]}}
        parts = view([dataclasses.replace(found, measured=narrow), dataclasses.replace(other, measured=narrow)])
        assert any(len(row.values) == 2 for row in parts[0].quantities) or view is attacks.curves
    plain = record(accuracy, workspace, config=settings["config"], limit=100)
    assert {key: measured[key] for key in ("test_error", "parameters")} == {
        key: plain.measured[key] for key in ("test_error", "parameters")
    }


def test_an_ascent_from_noise_finds_no_more_than_the_prescribed_constant(workspace):
    ratios = [
        record(ascended, workspace, config=settings_of(LBEN), pairs=5, steps=steps, seed=0).measured["ratio"]
        for steps in (1, 20, 300)
    ]
    assert 0.0 < ratios[0] < ratios[1] <= ratios[2] <= 1.0 + 1e-6  # γ = 1 per normalised pixel
    assert ratios[2] > 0.8


def test_one_gradient_step_is_on_the_last_images(workspace):
    sizes = [0.01, 0.05, 1.0]
    errors = record(stepped, workspace, config=settings_of(LBEN), radii=sizes, last=60).measured["errors"]
    _, data, model = load_image_run(trained(workspace, LBEN))
    x, y = data.test_x[-60:].clone().requires_grad_(), data.test_y[-60:]
    logits = model(x)
    torch.nn.functional.cross_entropy(logits, y, reduction="sum").backward()
    step = x.grad / x.grad.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    for size, error in zip(sizes, errors, strict=True):
        with torch.no_grad():  # where an image is wrong already, nothing is needed
            moved = model((x + size * step).clamp(0.0, 1.0)).argmax(1) != y
        wrong = moved | (logits.argmax(1) != y)
        assert error == pytest.approx(100.0 * float(wrong.double().mean()), abs=100.0 / 60.0 + 1e-9)
    assert errors[0] < errors[-1]


def test_trained_networks_without_a_bound_are_decided(workspace):
    config = settings_of(dataclasses.replace(LBEN, family=FAMILIES["lben"](width=8, gamma=0.0)))
    found = record(well_posed.trained_network, workspace, config=config, limit=50)
    assert found.measured["outcome"] == "certified" and found.measured["metric"] and found.measured["apart"] is None
    random = record(well_posed.random_matrices, workspace, scale=0.5, size=4, count=3, seed=0)
    table, figure = well_posed.conditions([found, random])
    assert table.quantities[0].setting == "γ = ∞" and len(figure.series) == len(well_posed.CONDITIONS)


def test_nemon_in_the_largest_norm_and_by_boxes(workspace):
    config = settings_of(NEMON)
    attack = {"images": 30, "steps": 5, "radii": [0.02, 0.3], "plain": ["noise", "inversion"]}
    found = record(
        image_classifier, workspace, config=config, radii=(0.01, 0.02, 0.05), limit=60, attack=attack, norm="inf"
    )
    measured = found.measured
    assert measured["product"] is None and measured["lower_bound"] <= measured["lipschitz"]
    for values in (measured["attacked"], *measured["plainly_attacked"].values()):
        assert all(low <= high for low, high in zip(measured["certified_of_attacked"], values, strict=True))
    assert len(classification.constants([found])) == 2 and len(classification.curves([found])) == 3
    boxed = record(robust.boxes, workspace, config=config, radii=[0.01, 0.02, 0.3], limit=60, images=30, steps=5)
    shares = boxed.measured["certified"]
    assert 0.0 < shares[0] <= 100.0 - boxed.measured["test_error"] and shares == sorted(shares, reverse=True)
    assert all(
        low <= high
        for low, high in zip(boxed.measured["certified_of_attacked"], boxed.measured["attacked"], strict=True)
    )
    assert len(robust.view([boxed])) == 2


def test_algorithms_reach_the_same_tolerances(workspace):
    found = record(iterations.iterations, workspace, config=settings_of(NEMON), images=20, tolerances=[1e-2, 1e-6])
    counts = {name: rows["iterations"] for name, rows in found.measured.items()}
    assert set(counts) == set(iterations.SOLVERS) and all(0.0 < few <= many for few, many in counts.values())
    assert [type(part) for part in iterations.view([found])] == [Table, Figure, Figure]


def test_a_function_is_estimated(workspace):
    family = {"name": "nemon", "width": 10}
    config = settings_of(TrainConfig.from_dict(
        {"family": family, "data": "function-estimation", "epochs": 3, "learning_rate": 0.02}
    ))  # fmt: skip
    found = record(estimation.estimated_function, workspace, config=config)
    measured, x = found.measured, torch.tensor(found.measured["x"])
    slopes = torch.tensor(measured["values"]).diff() / x.diff()
    assert (
        float(slopes.abs().max()) <= measured["slope"] * (1.0 + 1e-4) and measured["lower_bound"] <= measured["slope"]
    )
    _, against, curves = estimation.view([found])
    assert len(curves.series) == 2 and against.series[0].y == [measured["error"]]


def test_the_data_of_other_papers_networks_is_the_data_of_their_recipes():
    for name, entry in RECIPES.items():
        if entry.paper in ("lben", "nemon"):
            used = {cell.settings["config"]["data"] for cell in entry.cells(False) if "config" in cell.settings}
            assert used <= set(entry.data), name
    assert RECIPES["lben-svhn"].missing


def test_an_iteration_that_stops_early_is_the_layer_only_where_it_does_not():
    torch.manual_seed(0)
    layer = wp.LBEN(6, 12, gamma=1.0, out_features=3).double()
    x = torch.randn(20, 6, dtype=torch.float64, requires_grad=True)
    expected = layer(x)
    (slope,) = torch.autograd.grad(expected.square().sum(), x)
    apart = []
    for length, change in ((1.0, 1e-12), (1.0 / 64.0, 0.05)):
        found = StoppedEarly(layer, length, change)(x)
        (other,) = torch.autograd.grad(found.square().sum(), x)
        apart.append((float((found - expected).detach().norm()), float((other - slope).norm() / slope.norm())))
    assert apart[0] == pytest.approx((0.0, 0.0), abs=1e-4)
    assert min(apart[1]) > 1e-2


def test_a_gradient_step_on_an_iteration_that_stops_early_is_less_exact(workspace):
    given = {"config": settings_of(LBEN), "radii": [0.5], "last": 60}
    iterated = {
        length: record(
            stepped, workspace, **given, iteration={"length": length, "change": 1e-3 if length == 1.0 else 0.5}
        )
        for length in (1.0, 1e-3)
    }
    exact = record(stepped, workspace, **given).measured["errors"]
    assert iterated[1.0].measured["errors"] == pytest.approx(exact, abs=100.0 / 60.0 + 1e-9)
    assert iterated[1e-3].measured["errors"] != pytest.approx(exact, abs=100.0 / 60.0 + 1e-9)

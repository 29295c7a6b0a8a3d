"""Recipes show certified accuracy beside accuracy under all attacks, of the same images, and refuse records that contradict."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from wellposed.attacks import adversarial_distances
from wellposed.errors import CertificateError
from wellposed.experiments.robustness import attacked_on, auto_attacked_on
from wellposed.models.families import FAMILIES, FeedForwardFamily
from wellposed.reproduction.cell import Record, Workspace
from wellposed.reproduction.collection import RECIPES
from wellposed.reproduction.networks import settings_of, trained
from wellposed.reproduction.papers.monotone.deep import attacked_deep_network
from wellposed.reproduction.papers.nemon.robust import attacked_boxes
from wellposed.reproduction.strongest import SMALL, attacked_classifier, check_order, pressed, same_images, strongest
from wellposed.training.config import TrainConfig
from wellposed.training.run import load_image_run

pytestmark = pytest.mark.float32

CONFIGS = {
    attacked_classifier: FAMILIES["lben"](width=8),
    attacked_deep_network: FeedForwardFamily(width=8, depth=2),
    attacked_boxes: FAMILIES["nemon"](width=8),
}
RADII = {attacked_classifier: [0.05, 0.5], attacked_deep_network: [0.05, 0.5], attacked_boxes: [0.005, 0.1]}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return Workspace(tmp_path_factory.mktemp("strongest"), None)


def record(workspace, measure, **more):
    config = TrainConfig(CONFIGS[measure], "digits", epochs=8, learning_rate=0.02, validation=0.0)
    cell = pressed(measure, settings_of(config), RADII[measure], quick=True, **more)
    return Record(cell.task, dict(cell.settings), cell.measure(workspace, **cell.settings))


@pytest.mark.parametrize("measure", list(CONFIGS))
def test_no_more_is_certified_than_withstands(workspace, measure):
    found = record(workspace, measure)
    certified, attacked = found.measured["certified"], found.measured["attacked"]
    assert all(a <= b for a, b in zip(certified, attacked, strict=True)) and attacked == sorted(attacked, reverse=True)
    assert attacked[0] > attacked[1] and certified[0] > 0.0
    (table,) = same_images([found], lambda _: "a network")
    assert [row.mean for row in table.quantities] == [certified[0], attacked[0], certified[1], attacked[1]]
    assert "AutoAttack" in table.title and "4 test images" in table.title
    wrong = dataclasses.replace(found, measured={"certified": [attacked[0] + 1.0, 0.0], "attacked": attacked})
    with pytest.raises(CertificateError, match="a network"):
        same_images([found, wrong], lambda _: "a network")


def test_the_nearest_example_of_all_attacks_counts(workspace):
    config = TrainConfig(CONFIGS[attacked_classifier], "digits", epochs=8, learning_rate=0.02, validation=0.0)
    _, data, model = load_image_run(trained(workspace, config), None)
    x, y, radii = data.test_x[:6], data.test_y[:6], [0.3, 0.8]
    searched = attacked_on(model, x, y, radii, steps=SMALL["steps"])
    alone = auto_attacked_on(
        model, x, y, dataclasses.replace(searched, distances=[torch.inf] * 6), norm="2", steps=5, queries=50
    )
    fooled = [distance for distance in alone.distances if 0.0 < distance < torch.inf]
    assert fooled and max(fooled) <= max(radii)
    best = strongest(model, x, y, radii, norm="2", effort=SMALL).distances
    assert all(low <= high for low, high in zip(best, searched.distances, strict=True))
    other, _ = adversarial_distances(model, x, y, radii, steps=SMALL["steps"])
    assert sum(best) < float(other.sum()) + 1e-6  # judged by the float64 network, the same distances or less
    # What is known is kept where nothing nearer is found.
    near = dataclasses.replace(searched, distances=[0.01] * 6)
    kept = auto_attacked_on(model, x, y, near, norm="2", steps=2, queries=5).distances
    assert all(distance in (0.0, 0.01) for distance in kept)


def test_rows_are_compared_one_by_one():
    check_order([50.0, 20.0], [50.0, 30.0], [0.1, 0.2], "a network")
    check_order([39.333333333333336], [39.33333333333333], [0.02], "shares that were worked out in two ways")
    with pytest.raises(CertificateError, match=r"a network: 20 % certified at 0\.2, but 10 %"):
        check_order([50.0, 20.0], [90.0, 10.0], [0.1, 0.2], "a network")


@pytest.mark.parametrize("quick", [False, True])
def test_every_recipe_with_certified_accuracies_is_attacked_by_all(quick):
    attacked = set()
    for name, recipe in RECIPES.items():
        cells = recipe.cells(quick)
        pressed_cells = [cell for cell in cells if "effort" in cell.settings]
        if not pressed_cells:
            continue
        attacked.add(name)
        certified = [cell for cell in cells if "effort" not in cell.settings]
        networks = {str(cell.settings["config"]) for cell in certified if "config" in cell.settings}
        assert {str(cell.settings["config"]) for cell in pressed_cells} <= networks, name  # no further training
    without_svhn = {
        "monotone-fig4a", "monotone-fig4b", "monotone-fig9", "lben-attacks", "lben-cifar-conv", "lben-cifar-dense",
        "nemon-constants", "nemon-attacks", "nemon-robust", "nemon-mnist-conv", "nemon-cifar-conv", "orthogonal-table2",
        "lben-mnist-conv-small", "nemon-mnist-conv-small",
    }  # fmt: skip
    assert attacked >= without_svhn

"""Figure 4b: accuracy of explicit and monotone networks under projected gradients, and what is certified of the same images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from wellposed.errors import require
from wellposed.reproduction.cell import Cell, Record, Workspace
from wellposed.reproduction.measurements import of_task
from wellposed.reproduction.networks import facts, settings_of, trained
from wellposed.reproduction.papers.monotone.deep import deep_config, setting_of
from wellposed.reproduction.papers.monotone.dense import dense_config
from wellposed.reproduction.papers.monotone.showing import (
    SEEDS,
    grouped,
    mean_curve,
    remark_on,
)  # fmt: skip
from wellposed.reproduction.robustness import robustness
from wellposed.reproduction.strongest import attacked_classifier, check_order, pressed, same_images
from wellposed.reproduction.view import Figure, Published, Quantity, Series, Table, View
from wellposed.training.config import TrainConfig
from wellposed.training.run import load_image_run

RADII = tuple(round(0.1 * k, 1) for k in range(1, 16))
DEPTHS = (3, 6, 10, 14)
MONOTONICITIES = (0.1, 20.0)
STEPS, IMAGES = 50, 1000
IN_TABLE = (0, 4, 9, 14)  # places of radii; the figure has all
_DEPTH_10 = (
    95.87, 93.87, 91.38, 87.97, 83.44, 77.93, 70.68, 63.08, 54.47, 47.01, 39.85, 33.73, 28.03, 23.33, 18.85,
)  # fmt: skip
_SOURCE = "notebook of the paper, dnn_d10"
_WEIGHTS = (
    "the published accuracies are of the authors' own weights on all 10,000 images, ours of the same layers, trained anew, on "
    "the first {}"
)


def attacked_network(workspace: Workspace, *, config: dict[str, Any], images: int, steps: int) -> dict[str, Any]:
    """Train a network, attack it as published and more strongly, and certify the same images.

    Returns:
        What `facts` and `robustness` say, and ``projected``, the accuracies in % under the published attack at `RADII`.

    Raises:
        CertificateError: an attack contradicts a certificate.
    """
    run = trained(workspace, TrainConfig.from_dict(config))
    attack = {"images": images, "steps": steps, "radii": RADII}
    found = robustness(workspace, run, radii=RADII, limit=images, attack=attack)
    projected = published_attack(workspace, run, images, steps)
    check_order(found["certified_of_attacked"], projected, RADII, "the published attack")
    return {**facts(workspace, run, images), **found, "projected": projected}


def published_attack(workspace: Workspace, run: Path, images: int, steps: int) -> list[float]:
    """Accuracies in % under foolbox's projected gradients of the cross-entropy from a random start, at `RADII`."""
    foolbox = require("foolbox", "attack")
    _, data, model = load_image_run(run, workspace.data_root)
    torch.manual_seed(0)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.L2ProjectedGradientDescentAttack(steps=steps)
    _, _, fooled = attack(wrapped, data.test_x[:images], data.test_y[:images], epsilons=list(RADII))
    return [100.0 * float((~row).double().mean()) for row in fooled]


def cells(quick: bool) -> list[Cell]:
    """Networks of Figures 1a and 1b; one of each kind under all attacks."""
    depths, monotonicities, seeds = ((3,), (20.0,), (0,)) if quick else (DEPTHS, MONOTONICITIES, SEEDS)
    extent = {"images": 10 if quick else IMAGES, "steps": STEPS}
    configs = [deep_config(depth, seed, quick=quick) for depth in depths for seed in seeds]
    configs += [dense_config(40, m, seed, quick=quick) for m in monotonicities for seed in seeds]
    radii = [RADII[place] for place in IN_TABLE]
    return [
        *(Cell(attacked_network, {"config": settings_of(config), **extent}) for config in configs),
        *(
            pressed(attacked_classifier, settings_of(config), radii, quick=quick)
            for config in configs
            if config.seed == 0
        ),
    ]


def _rows(setting: str, group: Sequence[Record]) -> list[Quantity]:
    rows = []
    for key, words in (
        ("projected", "under the published attack"), ("attacked", "under DeepFool and projected gradients on margins"),
        ("certified_of_attacked", "certified"),
    ):  # fmt: skip
        for place in IN_TABLE:
            published = None
            if setting == "d = 10" and key == "projected":
                images = group[0].settings["images"]
                published = Published(_DEPTH_10[place], _SOURCE, 0.5, _WEIGHTS.format(images))
            values = [record.measured[key][place] for record in group]
            name = f"accuracy at {RADII[place]:g}, %, {words}"
            rows.append(Quantity(setting, name, values, "higher", published, remark_on(group)))
    return rows


def view(records: Sequence[Record]) -> View:
    """Accuracies under the published attack over the radius, and in the table what is certified."""
    groups = grouped(of_task(records, attacked_network), setting_of)
    lines: list[Series] = []
    for setting, group in groups.items():
        for record in group:
            for key in ("attacked", "projected"):
                check_order(record.measured["certified_of_attacked"], record.measured[key], RADII, setting)
        lines.append(mean_curve(setting, RADII, [record.measured["projected"] for record in group]))
        if setting == "d = 10":
            lines.append(Series("d = 10", RADII, _DEPTH_10, published=True))
        if "m" in setting:
            curves = [record.measured["certified_of_attacked"] for record in group]
            lines.append(mean_curve(f"{setting}, certified", RADII, curves))
    images = records[0].settings["images"]
    sentence = (
        "Accuracy under projected gradients over the Euclidean radius for explicit networks (d linear maps) and monotone ones, "
        "and the certified accuracy of the monotone ones on the same images."
    )
    picture = Figure("monotone-fig4b", sentence, "radius, pixels in [0, 1]", "accuracy, %", lines)
    rows = [row for setting, group in groups.items() for row in _rows(setting, group)]
    return [
        Table(f"Accuracy on the first {images} test images", rows),
        *same_images(of_task(records, attacked_classifier), setting_of),
        picture,
    ]

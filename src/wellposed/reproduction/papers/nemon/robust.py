"""Robust training: certified accuracy by embedded intervals beside accuracy under projected gradients, over ℓ∞ radii.

Full runs certify and attack the same images, all of the test set, as published.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from wellposed.experiments.image_verdicts import ImageVerdicts
from wellposed.experiments.robustness import attacked_on
from wellposed.experiments.verification import Verified, check_verdicts, verified_of
from wellposed.network import materialise
from wellposed.reproduction.cell import Cell, Record, Workspace
from wellposed.reproduction.measurements import by_seed, of_task
from wellposed.reproduction.networks import facts, preset_with, settings_of, trained
from wellposed.reproduction.papers.nemon.networks import FOLLOW_UP, LIMIT_QUICK, SEEDS, mnist
from wellposed.reproduction.strongest import beside, check_order, pressed, same_images, strongest
from wellposed.reproduction.view import Figure, Published, Quantity, Series, Table, View
from wellposed.training.config import TrainConfig
from wellposed.training.run import load_image_run
from wellposed.verification import IntervalVerifier

RADII = (0.01, 0.02, 0.05, 0.08, 0.1, 0.15, 0.2, 0.3)
BOX = 0.1  # of training
_BATCH = 500
_PLAIN_CLEAN, _ROBUST_CLEAN = 2.27, 4.58  # published errors in %
# Accuracies in % at the radii, of one training or, for plain networks, means.
CERTIFIED = (94.71, 94.06, 91.29, 87.20, 83.68, 56.68, 12.08, 0.18)
ATTACKED = (94.92, 94.30, 92.15, 89.15, 86.58, 74.36, 47.05, 6.29)
PLAIN_ATTACKED = (95.59, 91.49, 54.75, 19.12, 8.04, 0.76, 0.05, 0.0)


def boxes(
    workspace: Workspace, *, config: dict[str, Any], radii: Sequence[float], limit: int | None, images: int, steps: int
) -> dict[str, Any]:
    """Train one network; certify boxes by intervals, and attack the first images.

    Returns:
        What `facts` says, with ``certified`` accuracies in %, ``attacked`` ones of the first images, and
        ``certified_of_attacked``, those of the same images.

    Raises:
        CertificateError: an attack contradicts a verdict.
    """
    run = trained(workspace, TrainConfig.from_dict(config))
    _, data, model = load_image_run(run, workspace.data_root)
    x, y = data.test_x[:limit], data.test_y[:limit]
    found = _by_intervals(model, x, y, radii)
    attacked = attacked_on(model, x[:images], y[:images], radii, norm="inf", steps=steps)
    check_verdicts(found, attacked)
    shares = [[verdict == "certified" for verdict in row] for row in found.status]
    return {
        **facts(workspace, run, limit), "certified": [100.0 * sum(row) / len(row) for row in shares],
        "certified_of_attacked": [100.0 * sum(row[:images]) / images for row in shares],
        "attacked": [100.0 * attacked.accuracy(radius) for radius in radii],
    }  # fmt: skip


def attacked_boxes(
    workspace: Workspace, *, config: dict[str, Any], radii: Sequence[float], images: int, effort: dict[str, int]
) -> dict[str, Any]:
    """Train one network, press it by all attacks, and certify boxes around the same images, see `attacked_classifier`."""
    _, data, model = load_image_run(trained(workspace, TrainConfig.from_dict(config)), workspace.data_root)
    x, y = data.test_x[:images], data.test_y[:images]
    found = _by_intervals(model, x, y, radii)
    attacked = strongest(model, x, y, radii, norm="inf", effort=effort)
    check_verdicts(found, attacked)
    return beside([100.0 * found.share("certified", place) for place in range(len(radii))], attacked, radii)


def _by_intervals(model: nn.Module, x: Tensor, y: Tensor, radii: Sequence[float]) -> Verified:
    network = materialise(model)
    work = ImageVerdicts(network, IntervalVerifier(network), "inf", list(radii), seconds=60.0)
    return verified_of(work, [work(few) for few in zip(x.split(_BATCH), y.split(_BATCH), strict=True)])


def cells(quick: bool) -> list[Cell]:
    """Networks trained plainly and for boxes, with every seed, and one of each under all attacks."""
    configs = [configs_of(seed, quick=quick) for seed in ((0,) if quick else SEEDS)]
    return [
        *(Cell(boxes, {"config": config, **extent(quick)}) for pair in zip(*configs, strict=True) for config in pair),
        *(pressed(attacked_boxes, config, extent(quick)["radii"], quick=quick) for config in configs[0]),
    ]


def configs_of(seed: int, *, quick: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of a network that is trained plainly, and of one that is trained for boxes."""
    robust = preset_with(
        "nemon-certified", family={"width": 20 if quick else 100}, box_radius=BOX, epochs=1 if quick else 20, seed=seed
    )
    return mnist(0.0, seed=seed, quick=quick), settings_of(robust)


def extent(quick: bool) -> dict[str, Any]:
    """At which radii, on how many test images, and with how many steps of an attack networks are measured."""
    if quick:
        return {"radii": RADII[1:5:2], "limit": LIMIT_QUICK, "images": LIMIT_QUICK, "steps": 5}
    return {"radii": RADII, "limit": None, "images": 10_000, "steps": 40}


def name_of(config: dict[str, Any]) -> str:
    """What tables call a network, by its training."""
    return "trained for boxes" if config["box_radius"] else "plain"


def mean_of_attacked(measured: Sequence[dict[str, Any]], key: str, radii: Sequence[float]) -> list[float]:
    """Certified or attacked accuracies in % of the images that were attacked, a mean over networks, one for each radius.

    Args:
        measured: by `boxes`.
        key: ``"certified"`` or ``"attacked"``.
        radii: at which these are.
    """
    for found in measured:
        check_order(found["certified_of_attacked"], found["attacked"], radii, "projected gradients")
    rows = [found["certified_of_attacked" if key == "certified" else key] for found in measured]
    return [sum(column) / len(column) for column in zip(*rows, strict=True)]


def _under_all_attacks(records: Sequence[Record], name: str) -> dict[float, str]:
    """What stronger attacks leave of a network's accuracy at each radius, for rows about projected gradients alone."""
    found = {}
    for record in records:
        if name_of(record.settings["config"]) == name:
            for radius, left in zip(record.settings["radii"], record.measured["attacked"], strict=True):
                found[radius] = (
                    f"All attacks leave {left:g} % of the first {record.settings['images']} images, see below."
                )
    return found


def view(records: Sequence[Record]) -> View:
    """Accuracies over the radius."""
    table, series = [], []
    for group in by_seed(of_task(records, boxes)):
        config, measured = group[0].settings["config"], [record.measured for record in group]
        radii, robust = list(group[0].settings["radii"]), bool(config["box_radius"])
        name = name_of(config)
        clean = Published(_ROBUST_CLEAN if robust else _PLAIN_CLEAN, FOLLOW_UP, 0.005 if robust else 0.16)
        table.append(Quantity(name, "test error, %", [found["test_error"] for found in measured], "lower", clean))
        for key, words, known in (
            ("certified", "certified", CERTIFIED if robust else ()),
            ("attacked", "under projected gradients", ATTACKED if robust else PLAIN_ATTACKED),
        ):
            published, remarks = dict(zip(RADII, known, strict=False)), {}
            if key == "attacked":
                remarks = _under_all_attacks(of_task(records, attacked_boxes), name)
            rows = [
                Quantity(
                    name, f"accuracy at {radius:g}, {words}, %", [found[key][place] for found in measured], "higher",
                    Published(published[radius], FOLLOW_UP, 0.005) if radius in published else None,
                    remarks.get(radius, ""),
                )
                for place, radius in enumerate(radii)
            ]  # fmt: skip
            table += rows
            series.append(Series(f"{name}, {words}", radii, mean_of_attacked(measured, key, radii)))
            if published:
                series.append(
                    Series(f"{name}, {words}", radii, [published[radius] for radius in radii], published=True)
                )
    images = records[0].settings["images"]
    sentence = "Accuracy of the same images over the ℓ∞ radius: certified by intervals, and under projected gradients."
    return [
        Table(
            f"Robust training for boxes of {BOX:g} in pixels from 0 to 1, {images} test images certified and attacked",
            table,
        ),
        *same_images(of_task(records, attacked_boxes), lambda record: name_of(record.settings["config"])),
        Figure("nemon-robust", sentence, "ℓ∞ radius, pixels in [0, 1]", "accuracy, %", series),
    ]

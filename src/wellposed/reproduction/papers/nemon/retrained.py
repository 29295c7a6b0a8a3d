"""Plain networks and those trained for boxes under other trainings, and attacked on all images.

The follow-up's networks are trained for longer, at a lower rate. Its attacks are on all images, and what its boxes are cut to is
not known: ours end where pixels do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from wellposed.reproduction.cell import Cell, Record
from wellposed.reproduction.measurements import image_classifier
from wellposed.reproduction.networks import settings_of
from wellposed.reproduction.other_trainings import Explained, table_of, training_of
from wellposed.reproduction.papers.nemon.classification import RADII, constants
from wellposed.reproduction.papers.nemon.networks import LIMIT_QUICK
from wellposed.reproduction.papers.nemon.robust import BOX, boxes, configs_of, extent
from wellposed.reproduction.papers.nemon.robust import view as robust_view
from wellposed.reproduction.view import View
from wellposed.training.config import TrainConfig

LARGER = (0.12, 0.15, 0.2)  # boxes of training
IMAGES = 10_000  # that are attacked, all of the test set
TRAININGS = ((2, 3e-3), (10, 3e-3), (40, 5e-4))  # epochs, peak of the learning rate; the last about as published


def cells(quick: bool) -> list[Cell]:
    """Networks under every training, with one seed; the plain ones measured as in both studies."""
    trainings = ((1, 1e-3),) if quick else TRAININGS
    plain, robust = (
        [
            settings_of(replace(TrainConfig.from_dict(config), epochs=epochs, learning_rate=rate))
            for epochs, rate in trainings
        ]
        for config in configs_of(0, quick=quick)
    )
    limit, usual = LIMIT_QUICK if quick else None, configs_of(0, quick=quick)[1]
    larger = [{**usual, "box_radius": radius} for radius in (LARGER[:1] if quick else LARGER)]
    every = {**extent(quick), "images": LIMIT_QUICK if quick else IMAGES}
    return [
        *(Cell(boxes, {"config": config, **extent(quick)}) for config in (*plain, *robust, *larger)),
        *(Cell(boxes, {"config": config, **every}) for config in (plain[-1], usual)),
        *(
            Cell(image_classifier, {"config": config, "radii": RADII, "limit": limit, "norm": "inf"})
            for config in plain
        ),
    ]


def figures() -> dict[str, Explained]:
    """The studies whose networks are trained otherwise here, by the names of their recipes."""
    return {
        "nemon-constants": Explained(constants, lambda record: record.is_of(image_classifier)),
        "nemon-robust": Explained(robust_view, lambda record: record.is_of(boxes), _otherwise),
    }


def _otherwise(record: Record) -> str:
    """What was done otherwise for one of the networks that are certified and attacked in boxes."""
    radius, images = record.settings["config"]["box_radius"], record.settings["images"]
    words = [training_of(record)]
    words += [] if radius in (0.0, BOX) else [f"boxes of {radius:g} in training"]
    words += [] if images == extent(False)["images"] else [f"{images} images attacked"]
    return ", ".join(words)


def view(records: Sequence[Record]) -> View:
    """Every published quantity under every training."""
    return [table_of("The same networks under other trainings", figures(), records)]

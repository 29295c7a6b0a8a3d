"""Plain networks and those trained for boxes under other trainings, and under longer attacks.

The follow-up trains for longer, at a lower rate; what its boxes are cut to is not known, ours are of valid pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from wellposed.reproduction.cell import Cell, Record
from wellposed.reproduction.measurements import image_classifier
from wellposed.reproduction.networks import settings_of
from wellposed.reproduction.other_trainings import Explained, table_of, training_of
from wellposed.reproduction.papers.nemon.classification import RADII, constants
from wellposed.reproduction.papers.nemon.robust import BOX, boxes, configs_of, extent
from wellposed.reproduction.papers.nemon.robust import view as robust_view
from wellposed.reproduction.view import View
from wellposed.training.config import TrainConfig

OTHER_BOXES = (0.08, 0.15, 0.2, 0.3)  # of training
SMALL_BOX, OF_SMALL_BOX = 0.05, ((40, 2e-4), (40, 5e-4))  # of longer ones
SMALL_BATCH, OF_SMALL_BATCH = 32, (80, 5e-4)  # of a plain one
STEPS = 200  # of a longer attack
# Epochs, peak of the learning rate; 40 epochs as published.
TRAININGS = (2, 3e-3), (10, 3e-3), (80, 1e-3), (40, 2e-4), (160, 2e-4), (160, 5e-4), (40, 5e-4), (80, 5e-4)


def cells(quick: bool) -> list[Cell]:
    """Networks with one seed: plain ones under every training, measured as in both studies; for boxes under the last two."""
    trainings = ((1, 1e-4),) if quick else TRAININGS
    given, usual = configs_of(0, quick=quick), extent(quick)
    plain, robust = (
        [changed for epochs, rate in these if (changed := _retrained(config, epochs, rate)) != config]
        for config, these in zip(given, (trainings, trainings[-2:]), strict=True)
    )
    others = [{**given[1], "box_radius": radius} for radius in (OTHER_BOXES[:1] if quick else OTHER_BOXES)]
    if not quick:
        others += [{**_retrained(given[1], *training), "box_radius": SMALL_BOX} for training in OF_SMALL_BOX]
        plain.append({**_retrained(given[0], *OF_SMALL_BATCH), "batch_size": SMALL_BATCH})
    longer = {**usual, "steps": 10 if quick else STEPS}
    return [
        *(Cell(boxes, {"config": config, **usual}) for config in (*plain, *robust, *others)),
        *(Cell(boxes, {"config": config, **longer}) for config in given),
        *(
            Cell(image_classifier, {"config": config, "radii": RADII, "limit": usual["limit"], "norm": "inf"})
            for config in plain
        ),
    ]


def _retrained(config: dict[str, Any], epochs: int, rate: float) -> dict[str, Any]:
    return settings_of(replace(TrainConfig.from_dict(config), epochs=epochs, learning_rate=rate))


def figures() -> dict[str, Explained]:
    """The studies whose networks are trained otherwise here, by the names of their recipes."""
    return {
        "nemon-constants": Explained(constants, lambda record: record.is_of(image_classifier)),
        "nemon-robust": Explained(robust_view, lambda record: record.is_of(boxes), _otherwise),
    }


def _otherwise(record: Record) -> str:
    """What was done otherwise for one of the networks that are certified and attacked in boxes."""
    radius, steps = record.settings["config"]["box_radius"], record.settings["steps"]
    words = [training_of(record)]
    words += [] if radius in (0.0, BOX) else [f"boxes of {radius:g} in training"]
    words += [] if steps == extent(False)["steps"] else [f"{steps} steps of the attack"]
    return ", ".join(words)


def view(records: Sequence[Record]) -> View:
    """Every published quantity under every training."""
    return [table_of("The same networks under other trainings", figures(), records)]

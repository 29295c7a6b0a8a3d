"""Plain networks and those trained for boxes under other trainings: the follow-up's are trained for longer, at a lower rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from wellposed.reproduction.cell import Cell, Record
from wellposed.reproduction.measurements import image_classifier
from wellposed.reproduction.networks import settings_of
from wellposed.reproduction.other_trainings import Explained, table_of
from wellposed.reproduction.papers.nemon.classification import RADII, constants
from wellposed.reproduction.papers.nemon.networks import LIMIT_QUICK
from wellposed.reproduction.papers.nemon.robust import boxes, configs_of, extent
from wellposed.reproduction.papers.nemon.robust import view as robust_view
from wellposed.reproduction.view import View
from wellposed.training.config import TrainConfig

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
    limit = LIMIT_QUICK if quick else None
    return [
        *(Cell(boxes, {"config": config, **extent(quick)}) for config in (*plain, *robust)),
        *(
            Cell(image_classifier, {"config": config, "radii": RADII, "limit": limit, "norm": "inf"})
            for config in plain
        ),
    ]


def figures() -> dict[str, Explained]:
    """The studies whose networks are trained otherwise here, by the names of their recipes."""
    return {
        "nemon-constants": Explained(constants, lambda record: record.is_of(image_classifier)),
        "nemon-robust": Explained(robust_view, lambda record: record.is_of(boxes)),
    }


def view(records: Sequence[Record]) -> View:
    """Every published quantity under every training."""
    return [table_of("The same networks under other trainings", figures(), records)]

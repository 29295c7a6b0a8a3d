"""The error and width studies under other trainings, and with lower bounds as the authors looked for them.

The paper's rate goes down by steps, over more epochs; its lower bounds come from an ascent from noise, ours are proved.
Networks without a bound, of the study of well-posedness, are trained otherwise, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from wellposed.reproduction.cell import Cell, Record
from wellposed.reproduction.measurements import image_classifier
from wellposed.reproduction.networks import settings_of
from wellposed.reproduction.other_trainings import Explained, table_of, training_of
from wellposed.reproduction.papers.lben.ascent import ascended
from wellposed.reproduction.papers.lben.bounds import (
    GAMMAS,
    PUBLISHED,
    PUBLISHED_WIDTHS,
    WIDTHS,
    bounds,
    lower_bound_of,
    widths,
)  # fmt: skip
from wellposed.reproduction.papers.lben.networks import (
    LIMIT_QUICK,
    MONDEQ,
    RADII,
    UNCONSTRAINED,
    WIDTH,
    label_of,
    mnist,
)
from wellposed.reproduction.papers.lben.well_posed import conditions, trained_network
from wellposed.reproduction.view import Table, View
from wellposed.training.config import TrainConfig

TRAININGS = ((2, 3e-3), (5, 3e-3), (15, 1e-3))  # epochs, peak of the learning rate
OF_WIDTHS = 1.0  # γ of the width study
PAIRS = 10  # of the ascents, as published for the width study
STEPS = (10, 100, 1000)  # the last as published


def cells(quick: bool) -> list[Cell]:
    """Networks of every study under every training, with one seed; and ascents on those of the studies."""
    trainings = ((1, 1e-3),) if quick else TRAININGS
    kinds: list[tuple[float | str, int]] = [(OF_WIDTHS, WIDTH)]
    if not quick:
        kinds = [(kind, WIDTH) for kind in (*GAMMAS, 0.0, MONDEQ)]
        kinds += [(OF_WIDTHS, width) for width in WIDTHS if width != WIDTH]
    configs = [mnist(kind, seed=0, quick=quick, width=width) for kind, width in kinds]
    limit, lengths = (LIMIT_QUICK, (20,)) if quick else (None, STEPS)
    free = [] if quick else [mnist(kind, seed=0, quick=quick) for kind in (MONDEQ, UNCONSTRAINED)]
    return [
        *(
            Cell(image_classifier, {"config": config, "radii": RADII, "limit": limit})
            for config in _retrained(configs, trainings)
        ),
        *(Cell(trained_network, {"config": config, "limit": limit}) for config in _retrained(free, trainings)),
        *(
            Cell(ascended, {"config": settings_of(config), "pairs": PAIRS, "steps": steps, "seed": 0})
            for steps in lengths
            for config in configs
        ),
    ]


def _retrained(configs: Sequence[TrainConfig], trainings: Sequence[tuple[int, float]]) -> list[dict[str, Any]]:
    """Settings of networks under every training."""
    return [
        settings_of(replace(config, epochs=epochs, learning_rate=rate))
        for epochs, rate in trainings
        for config in configs
    ]


def figures() -> dict[str, Explained]:
    """The studies whose networks are trained or measured otherwise here, by the names of their recipes."""
    return {
        "lben-bounds": Explained(
            lambda records: _shown(records, bounds, label_of, PUBLISHED),
            lambda record: _width(record) == WIDTH and not record.is_of(trained_network), _otherwise,
        ),
        "lben-widths": Explained(
            lambda records: _shown(records, widths, lambda record: f"n = {_width(record)}", PUBLISHED_WIDTHS),
            lambda record: record.settings["config"]["family"].get("gamma") == OF_WIDTHS, _otherwise,
        ),
        "lben-well-posed": Explained(conditions, lambda record: record.is_of(trained_network)),
    }  # fmt: skip


def _otherwise(record: Record) -> str:
    if record.is_of(ascended):
        return f"an ascent of {record.settings['steps']} steps from noise"
    return training_of(record)


def _shown(
    records: Sequence[Record],
    study: Callable[[Sequence[Record]], View],
    name: Callable[[Record], str],
    known: Mapping[str, tuple[float | None, float]],
) -> View:
    """A study of networks that were trained otherwise, or what the ascent found of the study's own."""
    if not records[0].is_of(ascended):
        return study(records)
    rows = []
    for record in records:
        gamma = record.settings["config"]["family"].get("gamma", 0.0)
        published = known.get(name(record), (None, None))[1]
        rows.append(lower_bound_of(name(record), gamma, [record.measured["ratio"]], published))
    return [Table("Lower bounds by an ascent from noise", rows)]


def _width(record: Record) -> int:
    return int(record.settings["config"]["family"]["width"])


def view(records: Sequence[Record]) -> View:
    """Every published quantity under every training."""
    return [table_of("The same networks, trained or measured otherwise", figures(), records)]

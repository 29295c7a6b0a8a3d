"""The studies of the paper with networks that are trained otherwise, other lower bounds, and attacks on other images.

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
from wellposed.reproduction.papers.lben.ascent import STEPS, ascended, ascents
from wellposed.reproduction.papers.lben.attacks import DEVIATION, KINDS, NORMALISED, ONE_STEP, error_row, published_step
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
from wellposed.reproduction.papers.lben.stepped import stepped
from wellposed.reproduction.papers.lben.well_posed import conditions, trained_network
from wellposed.reproduction.view import Table, View
from wellposed.training.config import TrainConfig

TRAININGS = ((2, 3e-3), (5, 3e-3), (15, 1e-3))  # epochs, peak of the learning rate
OF_WIDTHS = 1.0  # γ of the width study
LAST = (1000, 5000)  # test images, of which the published attack was on a last batch of unknown size
LONG = (40, 1e-3)  # epochs as published, and peak of the learning rate, of networks that are attacked on these images
STRICT = 1.0  # m as published, ours is a hundredth
OF_STRICT = (5, 3e-3), (15, 1e-3)  # trainings of such networks, attacked on as many of the last images as follow
OF_STRICT_LAST = 2000
# γ whose iteration is the slowest and must have ended early; training, seeds and settings of networks that end early here.
EARLY, OF_EARLY, EARLY_SEEDS, EARLY_ITERATION = 0.2, (40, 3e-3), (0, 1), {"length": 1.0 / 512.0, "change": 0.01}


def cells(quick: bool) -> list[Cell]:
    """Networks of every study under every training, with one seed; ascents and attacks on those of the studies."""
    trainings = ((1, 1e-3),) if quick else TRAININGS
    kinds: list[tuple[float | str, int]] = [(OF_WIDTHS, WIDTH)]
    if not quick:
        kinds = [(kind, WIDTH) for kind in (*GAMMAS, 0.0, MONDEQ)]
        kinds += [(OF_WIDTHS, width) for width in WIDTHS if width != WIDTH]
    configs = [mnist(kind, seed=0, quick=quick, width=width) for kind, width in kinds]
    limit, lengths = (LIMIT_QUICK, (20,)) if quick else (None, STEPS)
    sizes = [DEVIATION * radius for radius in NORMALISED[2:]]
    stepping = [mnist(kind, seed=0, quick=quick) for kind in ((OF_WIDTHS,) if quick else KINDS)]
    shown = [settings_of(config) for config in stepping]
    free = [] if quick else [mnist(kind, seed=0, quick=quick) for kind in (MONDEQ, UNCONSTRAINED)]
    return [
        *(
            Cell(image_classifier, {"config": config, "radii": RADII, "limit": limit})
            for config in retrained(configs, trainings)
        ),
        *(Cell(trained_network, {"config": config, "limit": limit}) for config in retrained(free, trainings)),
        *ascents(configs, lengths),
        *(
            Cell(stepped, {"config": config, "radii": sizes, "last": last})
            for attacked in ((shown,) if quick else (shown, retrained(stepping, (LONG,))))
            for last in ((LIMIT_QUICK,) if quick else LAST)
            for config in attacked
        ),
        *([] if quick else _strict(sizes)),
    ]


def _strict(sizes: Sequence[float]) -> list[Cell]:
    """Networks with the published m, attacked by a gradient step; of the smallest γ, with an iteration that ends early, too."""
    common = {"radii": list(sizes), "last": OF_STRICT_LAST}
    bounded = [mnist(kind, seed=0, quick=False) for kind in KINDS if kind != MONDEQ]
    slow = [mnist(EARLY, seed=seed, quick=False) for seed in EARLY_SEEDS]
    return [
        *(Cell(stepped, {"config": _strictly(config), **common}) for config in retrained(bounded, OF_STRICT)),
        *(
            Cell(stepped, {"config": _strictly(config), **common, "iteration": EARLY_ITERATION})
            for config in retrained(slow, (OF_EARLY,))
        ),
    ]


def _strictly(config: dict[str, Any]) -> dict[str, Any]:
    """Settings of the same network with the published m."""
    return {**config, "family": {**config["family"], "epsilon": STRICT}}


def retrained(configs: Sequence[TrainConfig], trainings: Sequence[tuple[int, float]]) -> list[dict[str, Any]]:
    """Settings of networks under every training.

    Args:
        configs: of the networks.
        trainings: epochs, and peaks of the learning rate.
    """
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
            lambda record: _width(record) == WIDTH and not (record.is_of(trained_network) or record.is_of(stepped)),
            otherwise,
        ),
        "lben-attacks": Explained(_stepped, lambda record: record.is_of(stepped), otherwise),
        "lben-widths": Explained(
            lambda records: _shown(records, widths, lambda record: f"n = {_width(record)}", PUBLISHED_WIDTHS),
            lambda record: _gamma(record) == OF_WIDTHS and not record.is_of(stepped), otherwise,
        ),
        "lben-well-posed": Explained(conditions, lambda record: record.is_of(trained_network)),
    }  # fmt: skip


def otherwise(record: Record) -> str:
    """What was done otherwise for a record: another search, other images or another training."""
    if record.is_of(ascended):
        return f"an ascent of {record.settings['steps']} steps from noise"
    if record.is_of(stepped):
        config, words = record.settings["config"], [f"the last {record.settings['last']} test images"]
        strict = config["family"].get("epsilon") == STRICT
        words += [training_of(record)] if strict or config["epochs"] == LONG[0] else []
        words += [f"m = {STRICT:g}"] if strict else []
        words += ["stopped early in short steps"] if "iteration" in record.settings else []
        words += [f"seed {config['seed']}"] if config["seed"] else []
        return ", ".join(words)
    return training_of(record)


def _stepped(records: Sequence[Record]) -> View:
    """Errors under one gradient step on other images."""
    rows = []
    for record in records:
        name, images = label_of(record), f"last {record.settings['last']}"
        for size, error in zip(record.settings["radii"], record.measured["errors"], strict=True):
            radius = size / DEVIATION
            known = published_step(name, radius, images, record.settings["config"]["epochs"])
            rows.append(error_row(name, radius, ONE_STEP, error, known))
    return [Table("One gradient step", rows)]


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
        gamma = _gamma(record) or 0.0
        published = known.get(name(record), (None, None))[1]
        rows.append(lower_bound_of(name(record), gamma, [record.measured["ratio"]], published))
    return [Table("Lower bounds by an ascent from noise", rows)]


def _gamma(record: Record) -> float | None:
    """γ of a record's network, if it is of a family that has one."""
    found: float | None = record.settings["config"]["family"].get("gamma")
    return found


def _width(record: Record) -> int:
    return int(record.settings["config"]["family"]["width"])


def view(records: Sequence[Record]) -> View:
    """Every published quantity under every training."""
    return [table_of("The same networks, trained or measured otherwise", figures(), records)]

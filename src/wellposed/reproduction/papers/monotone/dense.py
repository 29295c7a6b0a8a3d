"""Figure 1b: Lipschitz constants of dense monotone networks over m."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wellposed.reproduction.cell import Cell, Record, Workspace
from wellposed.reproduction.networks import facts, preset_with, settings_of, trained
from wellposed.reproduction.papers.monotone.showing import (
    SEEDS,
    UNKNOWN_TRAINING,
    curve,
    family_of,
    grouped,
    quantity,
)  # fmt: skip
from wellposed.reproduction.robustness import robustness
from wellposed.reproduction.view import Figure, Published, Table, View, published_points
from wellposed.training.config import TrainConfig

MONOTONICITIES = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
WIDTHS = (40, 60)
RADII = tuple(round(0.01 + 0.19 * k / 9, 4) for k in range(10))  # as the paper's Figure 4a has them
QUICK_LIMIT = 500
BOUNDS = (("‖U‖‖W_o‖/m", "product"), ("best metric", "lipschitz"), ("proved lower bound", "lower_bound"))
PUBLISHED = {
    (40, 0.1): Published(47.38, "legend of Fig. 4a", 0.005, UNKNOWN_TRAINING),
    (40, 1.0): Published(10.0, "Section 5.1, around", 0.5, UNKNOWN_TRAINING),
    (40, 20.0): Published(3.83, "legend of Fig. 4a", 0.005, UNKNOWN_TRAINING),
}


def dense_network(workspace: Workspace, *, config: dict[str, Any], limit: int | None) -> dict[str, Any]:
    """Train and certify one dense monotone network."""
    run = trained(workspace, TrainConfig.from_dict(config))
    return {**facts(workspace, run, limit), **robustness(workspace, run, radii=RADII, limit=limit, attack=None)}


def dense_config(width: int, m: float, seed: int, *, quick: bool) -> TrainConfig:
    """The training of a dense monotone network, the same for every figure."""
    return preset_with("mnist-plain", family={"width": width, "m": m}, seed=seed, epochs=1 if quick else 15)


def dense_cell(width: int, m: float, seed: int, *, quick: bool) -> Cell:
    """The measurement of a dense monotone network."""
    config = settings_of(dense_config(width, m, seed, quick=quick))
    return Cell(dense_network, {"config": config, "limit": QUICK_LIMIT if quick else None})


def sweep_cells(quick: bool) -> list[Cell]:
    """Networks of every width, m and seed."""
    widths, monotonicities, seeds = ((40,), (1.0, 20.0), (0,)) if quick else (WIDTHS, MONOTONICITIES, SEEDS)
    return [dense_cell(width, m, seed, quick=quick) for width in widths for m in monotonicities for seed in seeds]


def per_normalised(key: str) -> Any:
    """A constant of a record, from the normalised pixels that the paper's constants are about."""
    return lambda measured: measured[key] * measured["deviation"]


def constants(records: Sequence[Record]) -> View:
    """Constants over m: Theorem 1, the best metric, and the proved lower bound."""
    groups = grouped(records, lambda record: (family_of(record)["width"], family_of(record)["m"]))
    quantities = [
        quantity(
            group, f"h = {width}, m = {m:g}", f"constant per normalised pixel, {name}", per_normalised(key),
            published=PUBLISHED.get((width, m)) if key == "product" else None,
        )
        for (width, m), group in groups.items() for name, key in BOUNDS
    ]  # fmt: skip
    series = [
        curve(f"{name}, h = {width}", {m: group for (other, m), group in groups.items() if other == width}, per_normalised(key))
        for width in dict.fromkeys(width for width, _ in groups) for name, key in BOUNDS
    ]  # fmt: skip
    for width in dict.fromkeys(width for width, _ in groups):
        known = {m: PUBLISHED.get((width, m)) for other, m in groups if other == width}
        series += published_points(f"{BOUNDS[0][0]}, h = {width}", known)
    sentence = (
        "Lipschitz constants of dense monotone networks over the strong monotonicity m: the published bound, the best metric, "
        "and the proved lower bound."
    )
    picture = Figure("monotone-fig1b", sentence, "m", "Lipschitz constant per normalised pixel", series, True, True)
    return [Table("Lipschitz constants", quantities), picture]

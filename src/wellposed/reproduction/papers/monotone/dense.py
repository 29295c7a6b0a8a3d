"""Figures 1b and 5: constants and test errors of dense monotone networks over m."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wellposed.reproduction.cell import Cell, Record, Workspace
from wellposed.reproduction.networks import facts, learned_nothing, preset_with, settings_of, trained
from wellposed.reproduction.recipe import Recipe
from wellposed.reproduction.robustness import robustness
from wellposed.reproduction.view import Figure, Published, Quantity, Series, Table, View
from wellposed.training.config import TrainConfig

MONOTONICITIES = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
WIDTHS = (40, 60)
SEEDS = (0, 1, 2)
RADII = tuple(round(0.01 + 0.19 * k / 9, 4) for k in range(10))  # as the paper's Figure 4a has them


def dense_network(workspace: Workspace, *, config: dict[str, Any], limit: int | None) -> dict[str, Any]:
    """Train and certify one dense monotone network."""
    run = trained(workspace, TrainConfig.from_dict(config))
    return {**facts(workspace, run, limit), **robustness(workspace, run, radii=RADII, limit=limit, attack=None)}


def sweep_cells(quick: bool) -> list[Cell]:
    """Networks of every width, m and seed."""
    widths, monotonicities, seeds = ((40,), (1.0, 20.0), (0,)) if quick else (WIDTHS, MONOTONICITIES, SEEDS)
    return [
        Cell(dense_network, {
            "config": settings_of(preset_with(
                "mnist-plain", family={"width": width, "m": m}, seed=seed, epochs=1 if quick else 15
            )),
            "limit": 500 if quick else None,
        })
        for width in widths for m in monotonicities for seed in seeds
    ]  # fmt: skip


def by_setting(records: Sequence[Record]) -> dict[tuple[int, float], list[Record]]:
    """Records by width and m, one for each seed."""
    found: dict[tuple[int, float], list[Record]] = {}
    for record in records:
        family = record.settings["config"]["family"]
        found.setdefault((family["width"], family["m"]), []).append(record)
    return found


_FIGURE_1B = {
    (40, 0.1): Published(
        47.38, "legend of Fig. 4a", 0.005, "the paper's training is not published, and constants depend on it"
    ),
    (40, 20.0): Published(
        3.83, "legend of Fig. 4a", 0.005, "the paper's training is not published, and constants depend on it"
    ),
}


def constants(records: Sequence[Record]) -> View:
    """Constants over m: Theorem 1, the best metric, and the proved lower bound."""
    groups = by_setting(records)
    quantities, series = [], []
    for (width, m), group in groups.items():
        setting = f"h = {width}, m = {m:g}"
        remark = " ".join(sorted({learned_nothing(record.measured) for record in group} - {""}))
        for name, key in (("‖U‖‖W_o‖/m", "product"), ("best metric", "lipschitz"), ("at least", "lower_bound")):
            values = [record.measured[key] * record.measured["deviation"] for record in group]
            published = _FIGURE_1B.get((width, m)) if key == "product" else None
            quantities.append(
                Quantity(setting, f"constant per normalised pixel, {name}", values, "lower", published, remark)
            )
    for width in dict.fromkeys(width for width, _ in groups):
        for name, label in (
            ("‖U‖‖W_o‖/m", "‖U‖‖W_o‖/m"),
            ("best metric", "best metric"),
            ("at least", "proved lower bound"),
        ):
            rows = [row for row in quantities if row.setting.startswith(f"h = {width},") and row.name.endswith(name)]
            x = [m for other, m in groups if other == width]
            series.append(Series(f"{label}, h = {width}", x, [row.mean for row in rows], [row.spread for row in rows]))
    sentence = (
        "Lipschitz constants of dense monotone networks fall as the strong monotonicity m grows; the best metric lies between "
        "the published bound and the proved lower bound."
    )
    picture = Figure("monotone-fig1b", sentence, "m", "Lipschitz constant per normalised pixel", series, True, True)
    return [Table("Lipschitz constants", quantities), picture]


RECIPES = (
    Recipe(
        "monotone-fig1b", "monotone", "Figure 1b", "Lipschitz constants of dense networks over m", ("mnist",), 0.6, False,
        sweep_cells, constants,
    ),
)  # fmt: skip

"""Table 2: errors on CIFAR-10 over contraction factor κ and tolerance ε, of the published network and of a 1-Lipschitz one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from wellposed.reproduction.cell import Cell, Record, Workspace
from wellposed.reproduction.measurements import of_task
from wellposed.reproduction.networks import facts, learned_nothing, preset_with, settings_of, trained
from wellposed.reproduction.robustness import robustness
from wellposed.reproduction.strongest import attacked_classifier, pressed, same_images
from wellposed.reproduction.view import Figure, Published, Quantity, Series, Table, View
from wellposed.training.config import TrainConfig
from wellposed.training.run import load_image_run

# Rows of the table: κ, ε, training and test error in %. The fourth and the last have the same κ and ε, one of them by mistake.
ROWS = (
    (0.95, 1e-2, 20.18, 24.91), (0.90, 1e-3, 20.11, 24.75), (0.80, 1e-4, 20.45, 25.12), (0.95, 1e-3, 20.04, 24.75),
    (0.98, 1e-2, 19.35, 24.32), (0.95, 1e-3, 19.18, 24.45),
)  # fmt: skip
SEEDS = (0, 1, 2)
RADII = (0.05, 0.1, 36 / 255)
_SAMPLING = 0.43  # in %: standard error of the test error of 10,000 images
_KINDS = {True: "as published", False: "1-Lipschitz"}
_ACCUMULATED = "the paper's is probably accumulated while the epoch trains, this one is of the final weights"


def cifar_network(workspace: Workspace, *, config: dict[str, Any], limit: int | None) -> dict[str, Any]:
    """Train one network; of a 1-Lipschitz one, certify the first thousand test images."""
    run = trained(workspace, TrainConfig.from_dict(config))
    measured = {**facts(workspace, run, limit), "train_error": _train_error(workspace, run, limit)}
    if config["family"]["published"]:
        return measured
    return {**measured, **robustness(workspace, run, radii=RADII, limit=limit or 1000, attack=None)}


@torch.no_grad()
def _train_error(workspace: Workspace, run: Any, limit: int | None) -> float:
    """Error of the trained network on its training images, in %."""
    _, data, model = load_image_run(run, workspace.data_root)
    x, y = data.train_x[:limit], data.train_y[:limit]
    predictions = torch.cat([model(part).argmax(1) for part in x.split(1000)])
    return 100.0 * float((predictions != y).double().mean())


def grid_cells(quick: bool) -> list[Cell]:
    """Both networks for every κ, ε and seed; the quick run has two small networks on the digits of scikit-learn."""
    settings = dict.fromkeys((kappa, epsilon) for kappa, epsilon, *_ in (ROWS[:1] if quick else ROWS))
    small = {"width": 6, "hidden": 8, "pool": 4} if quick else {}
    changes: dict[str, Any] = {"data": "digits", "epochs": 4} if quick else {"epochs": 50}
    cells = []
    for published in _KINDS:
        preset = f"papers/cifar10-orthogonal{'-published' if published else ''}"
        for kappa, epsilon in settings:
            for seed in SEEDS[: 1 if quick else None]:
                family = {"kappa": kappa, "rtol": epsilon, **small}
                config = preset_with(preset, family=family, seed=seed, augment=False, **changes)
                cells.append(Cell(cifar_network, {"config": settings_of(config), "limit": 300 if quick else None}))
                if not published and seed == 0:
                    cells.append(pressed(attacked_classifier, settings_of(config), RADII, quick=quick))
    return cells


def errors(records: Sequence[Record]) -> View:
    """Errors, iterations and, where there is one, the constant, by κ and ε."""
    groups: dict[tuple[bool, float, float], list[Record]] = {}
    for record in of_task(records, cifar_network):
        family = record.settings["config"]["family"]
        groups.setdefault((family["published"], family["kappa"], family["rtol"]), []).append(record)
    tables = []
    for published, kind in _KINDS.items():
        rows: list[Quantity] = []
        for number, (kappa, epsilon, *values) in enumerate(ROWS, 1):
            if (published, kappa, epsilon) in groups:
                rows += _rows(number, groups[published, kappa, epsilon], values if published else None)
        tables.append(Table(f"{kind}: errors after training", rows))
    return [*tables, *same_images(of_task(records, attacked_classifier), _name), _figure(groups)]


def _name(record: Record) -> str:
    family = record.settings["config"]["family"]
    return f"κ = {family['kappa']:g}, ε = {family['rtol']:g}"


def _rows(number: int, group: Sequence[Record], values: Sequence[float] | None) -> list[Quantity]:
    name = _name(group[0]) + (f" (row {number})" if values else "")

    def each(key: str) -> list[float]:
        return [record.measured[key] for record in group]

    remark = " ".join(sorted({learned_nothing(record.measured) for record in group} - {""}))
    source = f"Table 2, row {number}"
    train, test = (
        (None, None)
        if values is None
        else (Published(values[0], source, 0.005, _ACCUMULATED), Published(values[1], source, _SAMPLING))
    )
    rows = [
        Quantity(name, "test error, %", each("test_error"), "lower", test, remark),
        Quantity(name, "training error, %", each("train_error"), "lower", train),
        Quantity(name, "iterations of a solve", each("iterations"), "lower"),
    ]
    if values is None:
        rows.append(Quantity(name, "Lipschitz constant from pixels to logits, at most", each("lipschitz"), "lower"))
        for place, radius in enumerate(RADII):
            certified = [list(record.measured["certified"].values())[-1][place] for record in group]
            rows.append(Quantity(name, f"certified accuracy at {radius:.3g}, %", certified, "higher"))
    return rows


def _figure(groups: dict[tuple[bool, float, float], list[Record]]) -> Figure:
    """Test error against iterations."""
    series = []
    for published, kind in _KINDS.items():
        points = sorted(
            (_mean(group, "iterations"), _mean(group, "test_error"))
            for key, group in groups.items()
            if key[0] == published
        )
        series.append(Series(kind, [x for x, _ in points], [y for _, y in points]))
    sentence = "Test error against the iterations that a solve takes, one point for each κ and ε."
    return Figure("orthogonal-table2", sentence, "iterations of a solve", "test error, %", series)


def _mean(group: Sequence[Record], key: str) -> float:
    return sum(record.measured[key] for record in group) / len(group)

"""The networks of the paper's tables and figures: accuracy, iterations and largest singular values over training."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from wellposed.reproduction.cell import Cell, Record, Workspace
from wellposed.reproduction.networks import epochs_of, facts, learned_nothing, preset_with, settings_of, trained
from wellposed.reproduction.papers.pcdeq.architectures import Architecture
from wellposed.reproduction.view import Figure, Quantity, Series, Table, View
from wellposed.training.config import TrainConfig

ACTIVATIONS = ("tanh", "softsign", "relu6", "sigmoid")  # the last makes pcDEQ-2, the others pcDEQ-1
SEEDS = (0, 1, 2)
# As published, but for the floor: the paper's offsets have none, and without one there is no rate that holds for all weights.
_OFFSET = {"floor": 0.01, "sharpness": 5.0}
_DENSE: dict[str, Any] = {"parametrisation": "projection", "rtol": 1e-4}
_TRAINING: dict[str, Any] = {"epochs": 30, "batch_size": 64, "learning_rate": 5e-4, "weight_decay": 0.015}
_IN_SMALL: dict[str, Any] = {
    "dense": {"width": 12}, "conv": {"width": 4, "stride": 2, "pool": 2}, "multi": {"width": 4, "further": [6], "pool": 1},
}  # fmt: skip


def positive_network(workspace: Workspace, *, config: dict[str, Any], images: int) -> dict[str, Any]:
    """Train one positive concave network, and measure it after every epoch."""
    run = trained(workspace, TrainConfig.from_dict(config), watched=images)
    return {**facts(workspace, run), "epochs": epochs_of(run)}


def network_cells(architecture: Architecture, quick: bool) -> list[Cell]:
    """One network for every activation and seed; the quick run has small ones, on the digits of scikit-learn."""
    changes: dict[str, Any] = (
        {"data": "digits", "epochs": 5, "learning_rate": 1e-2} if quick else {"data": architecture.data}
    )
    cells = []
    for activation in ACTIVATIONS:
        family: dict[str, Any] = {"activation": activation, **(_IN_SMALL[architecture.kind] if quick else {})}
        if activation != "sigmoid":
            family |= _OFFSET
        preset, more = architecture.preset, {}
        if architecture.kind == "dense":
            preset = "pcdeq2" if activation == "sigmoid" else "pcdeq1-tanh"
            family, more = _DENSE | family, _TRAINING
        for seed in SEEDS[: 1 if quick else None]:
            config = preset_with(preset, family=family, seed=seed, **{**more, **changes})
            cells.append(Cell(positive_network, {"config": settings_of(config), "images": 200 if quick else 1000}))
    return cells


def over_training(architecture: Architecture, records: Sequence[Record]) -> View:
    """The state at the end of training, and what was measured after every epoch."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(_label(record.settings["config"]["family"]["activation"]), []).append(record)
    rows: list[Quantity] = []
    for label, group in groups.items():
        rows += _rows(label, group)
    title = "At the end of training; iterations per sample and layer, of the first test images, to the tolerance of training"
    return [Table(title, rows), *(_figure(architecture, groups, *entry) for entry in _FIGURES)]


def _label(activation: str) -> str:
    return f"pcDEQ-{2 if activation == 'sigmoid' else 1}, {activation}"


def _rows(label: str, group: Sequence[Record]) -> list[Quantity]:
    def last(key: str) -> list[float]:
        return [record.measured["epochs"][-1][key] for record in group]

    peaks = [max(row["singular_value"] for row in record.measured["epochs"]) for record in group]
    remark = " ".join(sorted({learned_nothing(record.measured) for record in group} - {""}))
    return [
        Quantity(label, "test error, %", [record.measured["test_error"] for record in group], "lower", remark=remark),
        Quantity(label, "parameters", [record.measured["parameters"] for record in group], "equal"),
        Quantity(label, "forward iterations", last("forward"), "lower"),
        Quantity(label, "backward iterations", last("backward"), "lower"),
        Quantity(label, "largest singular value", last("singular_value"), "equal"),
        Quantity(label, "largest singular value, at its peak", peaks, "equal"),
    ]


_FIGURES: tuple[tuple[str, str, tuple[tuple[str, str], ...], str], ...] = (
    ("accuracy", "accuracy on test images, %", (("accuracy", ""),), "Accuracy on test images by epoch; at most {:.3g} %."),
    (
        "iterations", "iterations", (("forward", ", forward"), ("backward", ", backward")),
        "Iterations of a forward and of a backward solve after every epoch, per sample and layer; at most {:.3g}.",
    ),
    (
        "singular-value", "largest singular value of W", (("singular_value", ""),),
        "Largest singular value of W after every epoch, of all layers; at most {:.3g}. No theorem here needs it below one.",
    ),
)  # fmt: skip


def _figure(
    architecture: Architecture, groups: dict[str, list[Record]], name: str, y: str, keys: tuple[tuple[str, str], ...],
    sentence: str,
) -> Figure:  # fmt: skip
    series = []
    for key, ending in keys:
        for label, group in groups.items():
            columns = list(zip(*([row[key] for row in record.measured["epochs"]] for record in group), strict=True))
            means = [statistics.fmean(column) for column in columns]
            spread = [statistics.stdev(column) for column in columns] if len(group) > 1 else []
            series.append(Series(label + ending, list(range(1, len(means) + 1)), means, spread))
    largest = max(value for each in series for value in each.y)
    return Figure(f"{architecture.name}-{name}", sentence.format(largest), "epoch", y, series)

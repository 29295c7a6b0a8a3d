"""Table 1: graph classification on ten folds, every variant on the same folds, under four conventions of reporting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from wellposed.experiments.graph_folds import (
    CONVENTIONS,
    PRESETS,
    FoldRun,
    FoldSummary,
    Place,
    accuracies_by_epoch,
    chosen_accuracies,
    read_fold,
    summarise_folds,
)  # fmt: skip
from wellposed.names import FOLDS
from wellposed.reproduction.cell import Cell, Record, Workspace
from wellposed.reproduction.networks import preset_with, settings_of, trained
from wellposed.reproduction.papers.orthogonal.graph_sets import GraphSet
from wellposed.reproduction.view import Figure, Published, Quantity, Series, Table, View
from wellposed.training.config import TrainConfig

WIDTH = 64  # of the published script, as is the batch size
BATCH = 128
_IMPLICIT, _ORTHOGONAL, _LIPSCHITZ = PRESETS
_OTHER_NETWORK = "it is 1-Lipschitz from node features to logits, which the paper's network is not"


def graph_fold(workspace: Workspace, *, preset: str, config: dict[str, Any]) -> dict[str, Any]:
    """Train one variant on one fold with one seed."""
    return asdict(read_fold(trained(workspace, TrainConfig.from_dict(config)), workspace.data_root))


def fold_cells(graphs: GraphSet, quick: bool) -> list[Cell]:
    """Every variant on every fold with every seed; the quick run has two folds, and one of large sets."""
    small = graphs.data in ("MUTAG", "PTC_MR", "COX2")
    width, epochs, folds, seeds = WIDTH, graphs.epochs, FOLDS, graphs.seeds
    if quick:
        width, epochs, folds, seeds = (8, 3, 2, 1) if small else (8, 1, 1, 1)
    return [
        Cell(graph_fold, {
            "preset": preset,
            "config": settings_of(preset_with(
                preset, family={"width": width}, data=graphs.data, fold=fold, seed=seed, epochs=epochs, batch_size=BATCH,
            )),
        })
        for fold in range(folds) for seed in range(seeds) for preset in PRESETS
    ]  # fmt: skip


def runs_of(records: Sequence[Record]) -> dict[Place, FoldRun]:
    """The runs behind records, by variant, seed and fold."""
    found = {}
    for record in records:
        config = record.settings["config"]
        found[record.settings["preset"], config["seed"], config["fold"]] = FoldRun(**record.measured)
    return found


def accuracies(graphs: GraphSet, records: Sequence[Record]) -> View:
    """Accuracy of every variant under every convention beside the larger class, paired differences, and the curve over epochs."""
    runs, config = runs_of(records), records[0].settings["config"]
    summary = summarise_folds(graphs.data, config["epochs"], float(config["family"]["dropout"]), runs)
    chosen = chosen_accuracies(runs)
    absolute, paired = [], []
    for line in summary.lines:
        values = chosen[line.preset][line.convention].mean(1)
        remark = f"± {line.deviation:.1f} over folds" + (f"; {words}" if (words := summary.remark(line)) else "")
        published = _published(graphs, line.preset) if line.convention == CONVENTIONS[0] else None
        row = Quantity(line.convention, f"{line.preset}, accuracy in %", values.tolist(), "higher", published, remark)
        absolute.append(_explained(row, {name: float(chosen[line.preset][name].mean()) for name in CONVENTIONS[1:]}))
        if line.difference is not None:
            difference = values - chosen[_IMPLICIT][line.convention].mean(1)
            words = "" if line.standard_error is None else f"standard error {line.standard_error:.1f} over folds"
            words = "; ".join(filter(None, (words, summary.remark(line))))
            name = f"{line.preset} minus {_IMPLICIT}, in %"
            paired.append(Quantity(line.convention, name, difference.tolist(), "higher", remark=words))
    assert summary.majority is not None  # runs of now note it
    absolute.append(Quantity("–", "always naming the larger class, accuracy in %", [summary.majority], "equal"))
    seeds = _seeds_said(runs)
    title = (
        f"{graphs.data}: {summary.folds} folds, {seeds}; ± in remarks is over folds; {summary.epochs} epochs (the paper: some "
        f"250 to 500), width {config['family']['width']}; verdicts allow the published ±, whose meaning is not stated, over √10 "
        "for ten folds"
    )
    return [
        Table(title, absolute),
        Table(f"Paired differences on the same folds, {seeds}", paired),
        _curves(graphs, runs, summary, absolute),
    ]


def _explained(row: Quantity, others: Mapping[str, float]) -> Quantity:
    """A row that deviates, with what the other conventions make of the same runs."""
    if row.published is None or row.published.incomparable or not row.deviates:
        return row
    near = [f"*{name}*, {value:.1f}" for name, value in others.items() if not row.at(value).deviates]
    said = (
        f"another convention gives the published value: {'; '.join(near)}"
        if near
        else f"no convention gives the published value; the others, {min(others.values()):.1f} to {max(others.values()):.1f}"
    )
    return replace(row, remark=f"{row.remark}; of the same runs, {said}")


def _published(graphs: GraphSet, preset: str) -> Published:
    place = 0 if preset == _IMPLICIT else 1
    value, deviation = graphs.published[place], graphs.deviations[place]
    why = _OTHER_NETWORK if preset == _LIPSCHITZ else ""
    return Published(value, f"Table 1, ± {deviation:g}", deviation / FOLDS**0.5, why)


def _seeds_said(runs: Mapping[Place, FoldRun]) -> str:
    """Which seeds there are, and whether it is one."""
    seeds = sorted({seed for _, seed, _ in runs})
    return f"one seed ({seeds[0]})" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}"


def _curves(graphs: GraphSet, runs: dict[Place, FoldRun], summary: FoldSummary, rows: Sequence[Quantity]) -> Figure:
    """Accuracy on the tenths to test on, by epoch, and what the published convention makes of it."""
    found = accuracies_by_epoch(runs, "test")
    epochs = list(range(1, summary.epochs + 1))
    series = [Series(preset, epochs, values.mean((0, 1)).tolist()) for preset, values in found.items()]
    assert summary.majority is not None  # runs of now note it
    series.append(Series("always the larger class", [epochs[0], epochs[-1]], [summary.majority] * 2))
    for preset, row in zip(PRESETS, rows, strict=False):  # of the first convention
        label, last = f"{preset}, {row.setting}", float(epochs[-1])
        series.append(Series(label, [last], [row.mean], joined=False))
        if row.published is not None and not row.published.incomparable:
            series.append(Series(label, [last], [row.published.value], published=True, joined=False))
    sentence = (
        f"Accuracy on the test tenths of {graphs.data} by epoch, a mean over folds, {_seeds_said(runs)}: the published "
        "convention takes every fold's own maximum instead, the marks at the last epoch."
    )
    return Figure(f"{graphs.name}", sentence, "epoch", "accuracy, %", series)

"""Graph classification over folds, seeds and variants: paired differences under four conventions of reporting.

What stands in the literature's tables depends on how the epoch is chosen. All four ways, from the same runs:

- ``best per fold``: every fold's best epoch on its own test tenth (the released IGNN script); the most optimistic;
- ``best common``: the one epoch with the best mean over folds (GIN);
- ``last``: the last epoch;
- ``validated``: every fold's epoch with the best accuracy on its validation tenth; the only one without the test set.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wellposed.data.graphs import GRAPH_NAMES
from wellposed.errors import CheckpointError, InputError, check, choices
from wellposed.experiments.learning import Learned, learned
from wellposed.names import FOLDS
from wellposed.training.config import TrainConfig, presets, read_config
from wellposed.training.files import write_json
from wellposed.training.folder import RunFolder, read_environment, read_metrics
from wellposed.training.run import load_run, train

PRESETS = ("ignn", "ignn-orthogonal", "ignn-lipschitz")
CONVENTIONS = ("best per fold", "best common", "last", "validated")
Place = tuple[str, int, int]  # preset, seed and fold
_PRINTED = 0.05  # half of the last digit that is printed
_ALIKE = 1e-3  # accuracies are kept with four digits behind the point


@dataclass(frozen=True)
class FoldRun:
    """What one variant showed on one fold with one seed.

    Attributes:
        test: accuracy on the tenth to test on after every epoch, in %.
        validation: the same on the tenth to choose an epoch with.
        majority: accuracy on the former tenth of whoever always names the commonest class of the graphs trained on, in %.
        classes_named: by the network of the epoch that the run keeps, on the tenth to test on.
        seconds: of training.
    """

    test: list[float]
    validation: list[float]
    majority: float
    classes_named: int
    seconds: float


@dataclass(frozen=True)
class Line:
    """One variant under one convention, in %.

    Attributes:
        preset: the variant.
        convention: how epochs were chosen.
        mean: over folds and seeds.
        deviation: standard deviation over folds of the mean over seeds.
        difference: mean over folds of the paired difference to the first variant; None for itself.
        standard_error: of that difference, over folds; None for a single fold.
    """

    preset: str
    convention: str
    mean: float
    deviation: float
    difference: float | None
    standard_error: float | None


@dataclass(frozen=True)
class FoldSummary:
    """Everything measured on one data set.

    Attributes:
        data: the set.
        epochs: of every run.
        dropout: in the head of the two variants that have one.
        folds: number of folds for which every variant and seed is there.
        seeds: number of seeds.
        seconds: training time of the runs that stand behind the lines.
        lines: one per variant and convention.
        majority: accuracy of whoever always names the commonest class, a mean over folds in %; None where that was not noted.
        constant: how many of the runs end with constant predictions, by variant.
        as_majority: in how many runs the accuracy is just that of the commonest class, by variant and convention.
    """

    data: str
    epochs: int
    dropout: float
    folds: int
    seeds: int
    seconds: float
    lines: list[Line]
    majority: float | None = None
    constant: dict[str, int] = field(default_factory=dict)
    as_majority: dict[str, dict[str, int]] = field(default_factory=dict)

    def remark(self, line: Line) -> str:
        """What a reader must know of a line, in words: constant predictions, or no gain over the commonest class; else empty."""
        parts = []
        if self.majority is not None and line.mean <= self.majority + _PRINTED:
            parts.append("no better than the larger class")
        runs, alike = self.folds * self.seeds, self.as_majority.get(line.preset, {}).get(line.convention)
        if line.convention == "last" and self.constant.get(line.preset):
            parts.append(f"predictions constant in {self.constant[line.preset]} of {runs} runs")
        elif alike:
            parts.append(f"just the share of the larger class in {alike} of {runs} runs")
        return "; ".join(parts)


def run_folds(
    data: str,
    out: Path,
    *,
    data_root: Path | None,
    seeds: int,
    folds: int,
    minutes: float | None,
    epochs: int | None = None,
    dropout: float | None = None,
    done: Callable[[int, int], None],
) -> FoldSummary:
    """Train every variant on every fold with every seed, skipping what an earlier call finished, and summarise.

    Args:
        data: name of a graph set.
        out: folder for the runs and ``folds.json``.
        data_root: see `load_graphs`.
        seeds: seeds 0…seeds − 1.
        folds: the first so many of the ten folds.
        minutes: begin no further fold after so long.
        epochs: instead of the presets' own number.
        dropout: instead of the presets' own, in the head of the two variants that have one.
        done: called with the number of finished runs, and with that of all.
    """
    choices("data", data, GRAPH_NAMES)
    check(seeds >= 1, "seeds", seeds, "must be at least 1")
    check(1 <= folds <= FOLDS, "folds", folds, f"must lie in 1…{FOLDS}")
    start = time.monotonic()
    runs: dict[Place, FoldRun] = {}
    for fold in range(folds):
        configs = {
            (preset, seed, fold): dataclasses.replace(_recipe(preset, epochs, dropout), data=data, seed=seed, fold=fold)
            for seed in range(seeds) for preset in PRESETS
        }  # fmt: skip
        late = minutes is not None and fold > 0 and time.monotonic() - start > 60.0 * minutes
        if late and not all(_is_finished(_folder(out, place), config) for place, config in configs.items()):
            continue
        for place, config in configs.items():
            folder = _folder(out, place)
            if not _is_finished(folder, config):
                train(config, folder, data_root=data_root)
            runs[place] = read_fold(folder, data_root)
            done(len(runs), folds * seeds * len(PRESETS))
    summary = summarise_folds(data, config.epochs, float(getattr(config.family, "dropout", 0.0)), runs)
    write_json(out / "folds.json", asdict(summary), indent=1)
    return summary


def _recipe(preset: str, epochs: int | None, dropout: float | None) -> TrainConfig:
    config = presets()[preset]
    changes: dict[str, Any] = {} if dropout is None else {"dropout": dropout}
    family = dataclasses.replace(config.family, **changes)
    return dataclasses.replace(config, family=family, epochs=config.epochs if epochs is None else epochs)


def _folder(out: Path, place: Place) -> Path:
    preset, seed, fold = place
    return out / f"{preset}-seed{seed}-fold{fold}"


def _is_finished(folder: Path, config: TrainConfig) -> bool:
    run = RunFolder(folder)
    if not run.environment.exists():  # written last
        return False
    if read_config(run.config) != config:
        raise CheckpointError(f"{folder}: a run with other settings; choose another --out or delete it")
    return True


@torch.no_grad()
def read_fold(run: Path, data_root: Path | None) -> FoldRun:
    """What a finished run on graphs showed.

    Args:
        run: its folder.
        data_root: see `load_graphs`.

    Raises:
        CheckpointError: not a finished run.
        InputError: the run is about images.
    """
    _, data, model = load_run(run, data_root)
    graphs = data.as_graphs(f"run={str(run)!r}")
    batch, labels = graphs.batch(graphs.test)
    commonest = graphs.labels_of("train").bincount().argmax()
    found: Learned = learned(model(batch).argmax(1), labels)
    rows = read_metrics(run)
    test, validation = ([round(100.0 * row[f"{part}/accuracy"], 4) for row in rows] for part in ("test", "validation"))
    seconds = float(read_environment(run)["seconds"])
    majority = 100.0 * float((labels == commonest).double().mean())
    return FoldRun(test, validation, majority, found.classes_named, seconds)


def summarise_folds(data: str, epochs: int, dropout: float, runs: Mapping[Place, FoldRun]) -> FoldSummary:
    """Summarise runs: every variant with the same seeds on the same folds.

    Args:
        data: name of the graph set.
        epochs: of every run.
        dropout: in the head of the two variants that have one.
        runs: at least one fold.
    """
    chosen = chosen_accuracies(runs)
    seeds, folds = (len({place[part] for place in runs}) for part in (1, 2))
    lines = [_line(chosen, preset, convention) for convention in CONVENTIONS for preset in PRESETS]
    majority = sum(run.majority for run in runs.values()) / len(runs)
    constant = {
        preset: sum(run.classes_named == 1 for (name, *_), run in runs.items() if name == preset) for preset in PRESETS
    }
    return FoldSummary(
        data, epochs, dropout, folds, seeds, sum(run.seconds for run in runs.values()), lines, majority, constant,
        _as_majority(runs, chosen),
    )  # fmt: skip


def _as_majority(runs: Mapping[Place, FoldRun], chosen: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, int]]:
    """In how many runs the accuracy is just that of the commonest class, by variant and convention."""
    seeds, folds = sorted({seed for _, seed, _ in runs}), sorted({fold for *_, fold in runs})
    return {
        preset: {
            convention: sum(
                abs(float(accuracies[row, column]) - runs[preset, seed, fold].majority) < _ALIKE
                for row, seed in enumerate(seeds)
                for column, fold in enumerate(folds)
            )
            for convention, accuracies in by_convention.items()
        }
        for preset, by_convention in chosen.items()
    }


def chosen_accuracies(runs: Mapping[Place, FoldRun]) -> dict[str, dict[str, Tensor]]:
    """Accuracies in % by variant and convention, each of shape (seeds, folds).

    Args:
        runs: every variant with the same seeds on the same folds.

    Raises:
        InputError: a run is missing.
    """
    test, validation = (accuracies_by_epoch(runs, part) for part in ("test", "validation"))
    return {preset: _by_convention(test[preset], validation[preset]) for preset in PRESETS}


def accuracies_by_epoch(runs: Mapping[Place, FoldRun], part: str) -> dict[str, Tensor]:
    """Accuracies in % after every epoch by variant, each of shape (seeds, folds, epochs).

    Args:
        runs: every variant with the same seeds on the same folds.
        part: ``"test"`` or ``"validation"``.

    Raises:
        InputError: a run is missing.
    """
    seeds, folds = sorted({seed for _, seed, _ in runs}), sorted({fold for *_, fold in runs})
    for place in ((p, s, f) for p in PRESETS for s in seeds for f in folds):
        if place not in runs:
            raise InputError(f"runs: have none of the variant {place[0]} with seed {place[1]} on fold {place[2]}")
    return {
        preset: torch.tensor(
            [[getattr(runs[preset, seed, fold], part) for fold in folds] for seed in seeds],
            dtype=torch.float64,
            device="cpu",
        )
        for preset in PRESETS
    }


def _by_convention(test: Tensor, validation: Tensor) -> dict[str, Tensor]:
    """Accuracy per seed and fold under each convention; of equally good epochs the latest counts."""
    epochs = test.shape[2]
    later = torch.arange(epochs, dtype=torch.float64, device="cpu") * 1e-6
    common = (test.mean(1) + later).argmax(1)  # per seed
    validated = (validation + later).argmax(2)
    return {
        "best per fold": test.amax(2),
        "best common": test.gather(2, common[:, None, None].expand(-1, test.shape[1], 1)).squeeze(2),
        "last": test[:, :, -1],
        "validated": test.gather(2, validated[:, :, None]).squeeze(2),
    }


def _line(chosen: dict[str, dict[str, Tensor]], preset: str, convention: str) -> Line:
    per_fold = chosen[preset][convention].mean(0)
    spread = float(per_fold.std(unbiased=False))
    if preset == PRESETS[0]:
        return Line(preset, convention, float(per_fold.mean()), spread, None, None)
    paired = per_fold - chosen[PRESETS[0]][convention].mean(0)
    error = float(paired.std()) / len(paired) ** 0.5 if len(paired) > 1 else None
    return Line(preset, convention, float(per_fold.mean()), spread, float(paired.mean()), error)


def _paired(line: Line) -> str:
    """The paired difference and, from more than one fold, its standard error."""
    if line.difference is None:
        return ""
    return f"{line.difference:+.1f}" + ("" if line.standard_error is None else f" ± {line.standard_error:.1f}")


def as_text(summary: FoldSummary) -> str:
    """The table as aligned text."""
    lines = [
        f"{summary.data}: {summary.epochs} epochs, {summary.folds} folds, {summary.seeds} seeds, "
        f"{summary.seconds / 60:.0f} minutes of training; "
        "accuracy in %, ± over folds; paired difference to ignn with its standard error",
        *([] if summary.majority is None else [f"always naming the larger class: {summary.majority:.1f}"]),
        f"{'convention':<14} {'variant':<16} {'accuracy':>14} {'difference':>16}",
    ]
    for line in summary.lines:
        difference, remark = _paired(line), summary.remark(line)
        accuracy = f"{line.mean:.1f} ± {line.deviation:.1f}"
        row = f"{line.convention:<14} {line.preset:<16} {accuracy:>14} {difference:>16}"
        lines.append(f"{row}  {remark}" if remark else row)
    return "\n".join(lines)


def as_markdown(summary: FoldSummary) -> str:
    """One row per variant, one column per convention: accuracy ± deviation over folds, and the paired difference."""
    lines = ["| variant | " + " | ".join(CONVENTIONS) + " |", "|" + "---|" * (1 + len(CONVENTIONS))]
    for preset in PRESETS:
        cells = []
        for convention in CONVENTIONS:
            (line,) = (line for line in summary.lines if (line.preset, line.convention) == (preset, convention))
            paired = _paired(line)
            remark = summary.remark(line)
            words = f"{line.mean:.1f} ± {line.deviation:.1f}" + (f" ({paired})" if paired else "")
            cells.append(f"{words}: {remark}" if remark else words)
        lines.append(f"| `{preset}` | " + " | ".join(cells) + " |")
    if summary.majority is not None:
        lines.append("| always the larger class |" + f" {summary.majority:.1f} |" * len(CONVENTIONS))
    recipe = f"{summary.epochs} epochs, dropout {summary.dropout:g}"
    minutes = f"{summary.seconds / 60:.0f} minutes of training on one core"
    return "\n".join([*lines, "", f"{recipe}; {summary.folds} folds, seeds for each: {summary.seeds}; {minutes}."])

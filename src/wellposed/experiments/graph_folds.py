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
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wellposed.data.graphs import FOLDS, GRAPH_NAMES
from wellposed.errors import CheckpointError, InputError, check, choices
from wellposed.training.config import TrainConfig, presets, read_config
from wellposed.training.files import write_json
from wellposed.training.folder import RunFolder, read_environment, read_metrics
from wellposed.training.run import train

PRESETS = ("ignn", "ignn-orthogonal", "ignn-lipschitz")
CONVENTIONS = ("best per fold", "best common", "last", "validated")


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
    """

    data: str
    epochs: int
    dropout: float
    folds: int
    seeds: int
    seconds: float
    lines: list[Line]


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
    start, finished = time.monotonic(), 0
    for fold in range(folds):
        if minutes is not None and fold > 0 and time.monotonic() - start > 60.0 * minutes:
            break
        for seed in range(seeds):
            for preset in PRESETS:
                config = dataclasses.replace(_recipe(preset, epochs, dropout), data=data, seed=seed, fold=fold)
                folder = _folder(out, preset, seed, fold)
                if not _is_finished(folder, config):
                    train(config, folder, data_root=data_root)
                finished += 1
                done(finished, folds * seeds * len(PRESETS))
    summary = summarise_folds(data, out, seeds, folds)
    write_json(out / "folds.json", asdict(summary), indent=1)
    return summary


def _recipe(preset: str, epochs: int | None, dropout: float | None) -> TrainConfig:
    config = presets()[preset]
    changes: dict[str, Any] = {} if dropout is None else {"dropout": dropout}
    family = dataclasses.replace(config.family, **changes)
    return dataclasses.replace(config, family=family, epochs=config.epochs if epochs is None else epochs)


def _folder(out: Path, preset: str, seed: int, fold: int) -> Path:
    return out / f"{preset}-seed{seed}-fold{fold}"


def _is_finished(folder: Path, config: TrainConfig) -> bool:
    run = RunFolder(folder)
    if not run.environment.exists():  # written last
        return False
    if read_config(run.config) != config:
        raise CheckpointError(f"{folder}: a run with other settings; choose another --out or delete it")
    return True


def summarise_folds(data: str, out: Path, seeds: int, folds: int = FOLDS) -> FoldSummary:
    """Summarise the finished runs in a folder, of the first so many folds.

    Raises:
        InputError: not even one fold is complete.
    """
    complete = [
        fold
        for fold in range(folds)
        if all(RunFolder(_folder(out, p, s, fold)).environment.exists() for p in PRESETS for s in range(seeds))
    ]
    if not complete:
        raise InputError(f"out={str(out)!r}: no fold of {data} is finished for every variant and seed")
    chosen, seconds = {}, 0.0
    for preset in PRESETS:
        test, validation = (_accuracies(out, preset, seeds, complete, part) for part in ("test", "validation"))
        chosen[preset] = _by_convention(test, validation)
        for fold in complete:
            for seed in range(seeds):
                seconds += float(read_environment(_folder(out, preset, seed, fold))["seconds"])
    lines = [_line(chosen, preset, convention) for convention in CONVENTIONS for preset in PRESETS]
    recipe = read_config(RunFolder(_folder(out, PRESETS[0], 0, complete[0])).config)
    dropout = float(getattr(recipe.family, "dropout", 0.0))
    return FoldSummary(data, recipe.epochs, dropout, len(complete), seeds, seconds, lines)


def _accuracies(out: Path, preset: str, seeds: int, folds: Sequence[int], part: str) -> Tensor:
    """Shape (seeds, folds, epochs), in %."""
    return 100.0 * torch.tensor(
        [
            [[row[f"{part}/accuracy"] for row in read_metrics(_folder(out, preset, seed, fold))] for fold in folds]
            for seed in range(seeds)
        ],
        dtype=torch.float64,
        device="cpu",
    )


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
        f"{'convention':<14} {'variant':<16} {'accuracy':>14} {'difference':>16}",
    ]
    for line in summary.lines:
        difference = _paired(line)
        accuracy = f"{line.mean:.1f} ± {line.deviation:.1f}"
        lines.append(f"{line.convention:<14} {line.preset:<16} {accuracy:>14} {difference:>16}")
    return "\n".join(lines)


def as_markdown(summary: FoldSummary) -> str:
    """One row per variant, one column per convention: accuracy ± deviation over folds, and the paired difference."""
    lines = ["| variant | " + " | ".join(CONVENTIONS) + " |", "|" + "---|" * (1 + len(CONVENTIONS))]
    for preset in PRESETS:
        cells = []
        for convention in CONVENTIONS:
            (line,) = (line for line in summary.lines if (line.preset, line.convention) == (preset, convention))
            paired = _paired(line)
            cells.append(f"{line.mean:.1f} ± {line.deviation:.1f}" + (f" ({paired})" if paired else ""))
        lines.append(f"| `{preset}` | " + " | ".join(cells) + " |")
    recipe = f"{summary.epochs} epochs, dropout {summary.dropout:g}"
    minutes = f"{summary.seconds / 60:.0f} minutes of training on one core"
    return "\n".join([*lines, "", f"{recipe}; {summary.folds} folds, seeds for each: {summary.seeds}; {minutes}."])

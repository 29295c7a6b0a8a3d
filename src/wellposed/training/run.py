"""A training run, from its settings to its folder, and back."""

from __future__ import annotations

import platform
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wellposed.data import Data, ImageData, TensorData
from wellposed.errors import CheckpointError, InputError, check, require
from wellposed.layers.options import solving_modules
from wellposed.solvers.solution import Tolerance
from wellposed.training.about import keep_about, own_path
from wellposed.training.checkpoint import load_weights, save_weights
from wellposed.training.config import TrainConfig, read_config
from wellposed.training.folder import RunFolder, write_json
from wellposed.training.loaders import build_model, evaluation_batches, load_data, training_batches


def train(
    config: TrainConfig,
    out: Path,
    *,
    data_root: Path | None = None,
    resume: bool = False,
    progress: bool = True,
    **trainer_options: Any,
) -> dict[str, float]:
    """Train a model into a run folder.

    Args:
        config: the settings.
        out: the run folder; created.
        data_root: see `load_images`.
        resume: go on from the folder's last checkpoint.
        progress: show a progress bar.
        trainer_options: passed to ``lightning.Trainer``: devices, accelerator, strategy, logger, callbacks, …

    Returns:
        The final metrics.

    Raises:
        CheckpointError: the folder cannot be written, or there is nothing usable to resume from.
        KeyboardInterrupt: training was interrupted; the last checkpoint is in the folder.
    """
    lightning = require("lightning", "train")
    from wellposed.training.best_epoch import BestEpoch
    from wellposed.training.module import TaskModule
    from wellposed.training.trainer import early_stopping, fit, quietly, test, trainer_of

    folder = RunFolder(out)
    folder.create()
    if resume:
        _check_resumable(folder, config)
    data = load_data(config, data_root)
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    model = build_model(config, data)
    _begin(folder, config, data, resume=resume)
    batches = training_batches(data, config)
    start = time.time()
    best = BestEpoch(model, choose=config.validation > 0.0, task=data.task)
    module = TaskModule(model, config, config.epochs * batches.steps, data.task)
    with quietly():
        stopping = early_stopping(data.task, config.patience)
        callbacks = [*trainer_options.pop("callbacks", []), *stopping]
        trainer = trainer_of(
            folder, best, config.epochs, len(batches), progress=progress, callbacks=callbacks, **trainer_options
        )
        parts = [evaluation_batches(data, config, part) for part in data.evaluated]
        fit(trainer, module, batches, parts or None, folder.checkpoint if resume else None)
        best.restore()
        tested = test(trainer, module, evaluation_batches(data, config, "test"), best.epoch)
    save_weights(model, config, folder.weights)
    write_json(folder.environment, _environment(time.time() - start), indent=1)
    return {**best.metrics, **tested, "epoch": best.epoch + 1.0}


def _begin(folder: RunFolder, config: TrainConfig, data: Data, *, resume: bool) -> None:
    """Bring the folder to what it is before the first step: settings, what is to be said of own data, no earlier results."""
    if not resume:
        folder.clear_results()
    folder.config.write_text(config.to_toml(), encoding="utf-8")
    if config.is_own:
        keep_about(folder.path, data.as_tensors("data"))
    if resume and folder.metrics.exists():  # the logger starts a new file; `read_metrics` joins them
        earlier = sorted(folder.path.glob("metrics-*.csv"))
        folder.metrics.rename(folder.path / f"metrics-{len(earlier)}.csv")


def _check_resumable(folder: RunFolder, config: TrainConfig) -> None:
    """Refuse to go on with a run that has no checkpoint, or has other settings."""
    if not folder.checkpoint.exists():
        raise CheckpointError(f"{folder.checkpoint}: nothing to resume from; run without --resume")
    if read_config(folder.config) != config:
        raise CheckpointError(
            f"{folder.config}: these settings differ from those of the run to resume; give the same, or none"
        )
    if config.is_own:
        own_path(folder.path, config.data, None)


def _environment(seconds: float) -> dict[str, object]:
    """Versions, machine and duration."""
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "seconds": round(seconds, 1),
    }


def load_run(
    path: Path, data_root: Path | None = None, own_data: str | None = None
) -> tuple[TrainConfig, Data, nn.Module]:
    """Settings, data and trained model of a finished run.

    Args:
        path: the run folder.
        data_root: see `load_images`.
        own_data: where a user's own data of the run are now; None for where they were when it was trained.

    Raises:
        CheckpointError: not a finished run.
        DataError: a user's own data are not there, or changed.
        InputError: a place of own data, for a run on a set that is known by name.
    """
    folder = RunFolder(path)
    if not folder.config.exists():
        raise CheckpointError(f"{path}: not a run folder (no config.toml); give the --out of `wellposed train`")
    config = read_config(folder.config)
    check(config.is_own or own_data is None, "data", own_data, f"{path} is a run on {config.data}; leave it out")
    placed = replace(config, data=str(own_path(path, config.data, own_data))) if config.is_own else config
    data = load_data(placed, data_root)
    model = build_model(config, data)
    load_weights(model, config, folder.weights)
    for module in solving_modules(model):
        module.tolerance = Tolerance()  # the configured one is for training
    return config, data, model.eval()


def load_classifier_run(
    path: Path, data_root: Path | None = None, own_data: str | None = None
) -> tuple[TrainConfig, TensorData, nn.Module]:
    """Settings, images or vectors, and trained model of a finished run that tells classes apart.

    Args:
        path: the run folder.
        data_root: see `load_images`.
        own_data: see `load_run`.

    Raises:
        CheckpointError: not a finished run.
        InputError: the run is about graphs, or estimates numbers.
    """
    config, found, model = load_run(path, data_root, own_data)
    data = found.as_tensors(f"run={str(path)!r}")
    if not data.task.has_logits:
        raise InputError(f"run={str(path)!r}: estimates numbers, and has no classes to be certified or attacked")
    return config, data, model


def load_image_run(
    path: Path, data_root: Path | None = None, own_data: str | None = None
) -> tuple[TrainConfig, ImageData, nn.Module]:
    """Settings, images and trained model of a finished run, for what is done with images only.

    Args:
        path: the run folder.
        data_root: see `load_images`.
        own_data: see `load_run`.

    Raises:
        CheckpointError: not a finished run.
        InputError: the run is about other samples than images.
    """
    config, data, model = load_run(path, data_root, own_data)
    return config, data.as_images(f"run={str(path)!r}"), model

"""A training run, from its settings to its folder, and back."""

from __future__ import annotations

import gc
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wellposed.data import Data, ImageData, TensorData
from wellposed.data.tasks import beside_a_constant
from wellposed.errors import CheckpointError, InputError, check, require
from wellposed.layers.options import solving_modules
from wellposed.solvers.solution import Tolerance
from wellposed.training.about import keep_about, own_path
from wellposed.training.batches import suited
from wellposed.training.checkpoint import load_weights, read_weights, save_weights
from wellposed.training.config import TrainConfig, read_config, write_config
from wellposed.training.environment import environment
from wellposed.training.files import file_digest, make_folder, write_json
from wellposed.training.folder import RunFolder, check_is_run, read_environment
from wellposed.training.loaders import build_model, evaluation_batches, load_data, training_batches
from wellposed.training.writer import is_main_process, one_writer

Progress = Callable[[int, int, str], None]


def train(
    config: TrainConfig,
    out: Path,
    *,
    data_root: Path | None = None,
    resume: bool = False,
    done: Progress | None = None,
    command: Sequence[str] = (),
    free: Sequence[str] = (),
    **trainer_options: Any,
) -> dict[str, float]:
    """Train a model into a run folder, which no other process writes to meanwhile.

    The random generators of torch, numpy and Python are afterwards as they were. Of processes that train one network together,
    as Lightning's strategy ``ddp`` starts them, the main one alone writes.

    Args:
        config: the settings.
        out: the run folder; created.
        data_root: see `load_images`.
        resume: go on from the folder's last checkpoint; a finished run is left as it is.
        done: called with the steps that are over, the number of all and the metrics known so far, in words.
        command: the words of the command line that asked for this, for the folder's notes; none where a program did.
        free: of ``batch_size`` and ``epochs``, those that are to suit a user's own data, whatever the settings say; see `suited`.
        trainer_options: passed to ``lightning.Trainer``: devices, accelerator, strategy, logger, callbacks, …

    Returns:
        The final metrics.

    Raises:
        CheckpointError: the folder cannot be written, another process writes to it, or there is nothing usable to resume from.
        KeyboardInterrupt: training was interrupted; the last checkpoint is in the folder.
    """
    require("lightning", "train")
    from wellposed.training.trainer import same_generators_and_seed

    folder = RunFolder(out)
    if resume:
        _check_resumable(folder, config)
        if folder.is_finished:
            return _found_finished(folder)
    if is_main_process():
        make_folder(out)
    with one_writer(out), same_generators_and_seed():
        data = load_data(config, data_root)
        config = _suited(config, len(data.labels_of("train")), free)
        metrics = _train(config, folder, data, resume, done, trainer_options, command)
    gc.collect()  # a trainer is a cycle, and would keep the training set through many trainings
    return metrics


def _suited(config: TrainConfig, samples: int, free: Sequence[str]) -> TrainConfig:
    """The settings, with those that are free as they suit the number of training samples; see `train`."""
    if not free or not config.is_own:
        return config
    size, epochs = (None if name in free else getattr(config, name) for name in ("batch_size", "epochs"))
    size, epochs = suited(samples, size, epochs)
    return replace(config, batch_size=size, epochs=epochs)


def _found_finished(folder: RunFolder) -> dict[str, float]:
    """The metrics of a finished run.

    Raises:
        CheckpointError: a file of it is damaged.
    """
    from wellposed.training.trainer import check_checkpoint

    if folder.checkpoint.exists():
        check_checkpoint(folder.checkpoint)
    read_weights(folder.weights)
    return dict(read_environment(folder.path).get("metrics", {}))


def _train(
    config: TrainConfig, folder: RunFolder, data: Data, resume: bool, done: Progress | None, options: dict[str, Any],
    command: Sequence[str],
) -> dict[str, float]:  # fmt: skip
    """What `train` does in a folder that it may write to."""
    import lightning

    from wellposed.training.best_epoch import BestEpoch
    from wellposed.training.module import TaskModule
    from wellposed.training.trainer import early_stopping, fit, quietly, test, trainer_of

    lightning.seed_everything(config.seed, workers=True, verbose=False)
    model = build_model(config, data)
    batches = training_batches(data, config)
    start = time.time()
    best = BestEpoch(model, choose=config.validation > 0.0, task=data.task)
    module = TaskModule(model, config, batches, data.task)
    with quietly():
        callbacks = [*options.pop("callbacks", []), *early_stopping(data.task, config.patience)]
        trainer = trainer_of(folder, best, config.epochs, len(batches), done=done, callbacks=callbacks, **options)
        if is_main_process():  # not before everything that is asked for was found usable: it removes an earlier run
            _prepare(config, folder, resume)
            if config.is_own:
                keep_about(folder.path, data.as_tensors("data"))
        parts = [evaluation_batches(data, config, part) for part in data.evaluated]
        fit(trainer, module, batches, parts or None, folder.checkpoint if resume else None)
        best.restore()
        module.settle()
        tested = test(trainer, module, evaluation_batches(data, config, "test"), best.epoch)
    beside = beside_a_constant(data.task, data.labels_of("test"))
    metrics = {**best.metrics, **tested, **beside, "epoch": best.epoch + 1.0}
    if is_main_process():
        save_weights(model, config, folder.weights)
        files = {path.name: file_digest(path) for path in folder.path.glob("metrics*.csv")}
        circumstances = {**_environment(time.time() - start, command), "metrics": metrics, "files": files}
        write_json(folder.environment, circumstances, indent=1)
    return metrics


def _prepare(config: TrainConfig, folder: RunFolder, resume: bool) -> None:
    """Settings in the folder, and nothing that an earlier training left there, unless it goes on."""
    folder.create()
    if not resume:
        folder.clear_results()
    write_config(config, folder.config)
    if resume and folder.metrics.exists():  # the logger starts a new file; `read_metrics` joins them
        earlier = sorted(folder.path.glob("metrics-*.csv"))
        folder.metrics.rename(folder.path / f"metrics-{len(earlier)}.csv")


def _check_resumable(folder: RunFolder, config: TrainConfig) -> None:
    """Refuse to go on with a run that has no checkpoint, or has other settings."""
    if not folder.checkpoint.exists() and not folder.is_finished:
        raise CheckpointError(f"{folder.checkpoint}: nothing to resume from; run without --resume")
    if read_config(folder.config) != config:
        raise CheckpointError(
            f"{folder.config}: these settings differ from those of the run to resume; give the same, or none"
        )
    if config.is_own:
        own_path(folder.path, config.data, None)


def _environment(seconds: float, command: Sequence[str]) -> dict[str, object]:
    """Versions, commit, date, command, machine and duration."""
    found = environment(list(command))
    return {
        "wellposed": found["versions"].get("wellposed", "unknown"),
        **{name: found[name] for name in ("commit", "date", "command", "python", "threads")},
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
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
    check_is_run(path)
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

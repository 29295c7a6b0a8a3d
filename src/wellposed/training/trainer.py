"""Lightning's trainer as runs use it: silent, with checkpoints that appear whole or not at all."""

from __future__ import annotations

import inspect
import logging
import os
import sys
import time
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO

from wellposed.data import Task
from wellposed.errors import CheckpointError, InputError, choices, require
from wellposed.training.best_epoch import BestEpoch
from wellposed.training.folder import RunFolder

_SECONDS_BETWEEN_LINES = 5.0  # of progress, where nobody watches a bar
LOGGERS = ("csv", "tensorboard")


@contextmanager
def quietly() -> Iterator[None]:
    """Without Lightning's advice on loaders and log folders, which is not about these runs."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\.")
        yield


def trainer_of(
    folder: RunFolder, best: BestEpoch, epochs: int, batches: int, *, progress: bool, **options: Any
) -> lightning.Trainer:
    """The trainer of a run, which keeps the last checkpoint and the metrics in its folder.

    Args:
        folder: the run.
        best: notes the epoch to keep.
        epochs: passes over the training set.
        batches: Lightning's steps of an epoch.
        progress: show a progress bar.
        options: of ``lightning.Trainer``, in the place of those here; callbacks are added, and ``logger`` may be a name, see
            `loggers_named`.

    Raises:
        InputError: Lightning refuses the options.
    """
    logger = options.pop("logger", "csv")
    checkpoints = ModelCheckpoint(
        folder.checkpoint.parent, filename=folder.checkpoint.stem, save_top_k=1, every_n_epochs=1,
        save_on_train_epoch_end=True, enable_version_counter=False,
    )  # fmt: skip
    own: dict[str, Any] = {
        "accelerator": "auto",
        "devices": 1,
        "logger": loggers_named(logger, folder) if isinstance(logger, str) else logger,
        "callbacks": [best, checkpoints, *([_progress(epochs)] if progress else []), *options.pop("callbacks", [])],
        "enable_progress_bar": progress and sys.stderr.isatty(),
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "plugins": [_AtomicCheckpoints()],
        "log_every_n_steps": min(50, batches),
    }
    try:
        return lightning.Trainer(max_epochs=epochs, default_root_dir=folder.path, **{**own, **options})
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"accelerator, devices or strategy: Lightning refuses them ({error})") from error


def early_stopping(task: Task, patience: int) -> list[Callback]:
    """What ends a training after so many epochs without a better score on the validation samples; nothing for 0.

    Args:
        task: what the score is.
        patience: number of epochs.
    """
    mode = "max" if task.is_worse(0.0, 1.0) else "min"
    return [EarlyStopping(f"validation/{task.score}", patience=patience, mode=mode)] if patience else []


def loggers_named(name: str, folder: RunFolder) -> list[Any]:
    """Loggers of a run by name: always its metrics.csv, from which reports are drawn, and the one that was asked for.

    Args:
        name: ``"csv"`` or ``"tensorboard"``, whose files go to ``tensorboard/`` in the folder.
        folder: the run.

    Raises:
        InputError: there is no such logger.
        MissingExtraError: the package tensorboard is not installed.
    """
    choices("logger", name, LOGGERS)
    found: list[Any] = [CSVLogger(folder.path, name="", version="")]
    if name == "tensorboard":
        require("tensorboard", "tensorboard")
        found.append(TensorBoardLogger(folder.path, name="", version="tensorboard"))
    return found


def fit(
    trainer: lightning.Trainer, module: lightning.LightningModule, batches: Any, evaluation: Any, resumed: Path | None
) -> None:
    """Train.

    Args:
        trainer: see `trainer_of`.
        module: what is trained.
        batches: to train on.
        evaluation: batches of the parts to evaluate on.
        resumed: the checkpoint to go on from, or None.

    Raises:
        CheckpointError: the checkpoint is truncated or corrupt.
        KeyboardInterrupt: training was interrupted.
    """
    options: dict[str, Any] = {}
    if resumed is not None:
        if not zipfile.is_zipfile(resumed):
            raise CheckpointError(f"{resumed}: truncated or corrupt; delete it and train anew")
        options["ckpt_path"] = str(resumed)
        if "weights_only" in inspect.signature(trainer.fit).parameters:  # of recent versions of Lightning
            options["weights_only"] = False
    try:
        trainer.fit(module, batches, evaluation, **options)
    except SystemExit as stop:  # what recent versions of Lightning make of an interrupt
        raise KeyboardInterrupt from stop
    if trainer.interrupted:
        raise KeyboardInterrupt


def test(trainer: lightning.Trainer, module: lightning.LightningModule, batches: Any, epoch: int) -> dict[str, float]:
    """Metrics on the test set, once; they stand in the row of the epoch that is kept.

    Args:
        trainer: after `fit`.
        module: what was trained.
        batches: to test on.
        epoch: that is kept, counted from zero.
    """
    loggers = trainer.loggers
    trainer.loggers = []  # its rows would be of an epoch after the last
    (found,) = trainer.test(module, batches, verbose=False)
    for logger in loggers:
        logger.log_metrics({**found, "epoch": epoch}, trainer.global_step)
        logger.save()
    return dict(found)


class _AtomicCheckpoints(TorchCheckpointIO):
    """A kill in the middle of writing leaves the earlier checkpoint."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        partial = f"{path}.part"
        super().save_checkpoint(checkpoint, partial, storage_options)
        os.replace(partial, path)


class _Lines(Callback):
    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.last = time.monotonic()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if time.monotonic() - self.last < _SECONDS_BETWEEN_LINES:
            return
        self.last = time.monotonic()
        shown = ", ".join(f"{name} {float(value):.4g}" for name, value in sorted(trainer.callback_metrics.items()))
        print(f"epoch {trainer.current_epoch + 1}/{self.epochs}: {shown}", file=sys.stderr, flush=True)


def _progress(epochs: int) -> Callback:
    """What shows progress on standard error: a bar for a person, a line every few seconds for a log."""
    return TQDMProgressBar(refresh_rate=3) if sys.stderr.isatty() else _Lines(epochs)

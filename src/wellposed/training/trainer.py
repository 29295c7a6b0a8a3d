"""Lightning's trainer as runs use it: silent, with checkpoints that appear whole or not at all."""

from __future__ import annotations

import hashlib
import inspect
import io
import logging
import os
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher

from wellposed.data import Task
from wellposed.errors import CheckpointError, DivergedError, GuaranteeError, InputError, choices, require
from wellposed.numerics.generators import same_generators
from wellposed.training.best_epoch import BestEpoch
from wellposed.training.files import make_folder, write_bytes
from wellposed.training.folder import RunFolder

LOGGERS = ("csv", "tensorboard")
_SEAL = b"sha256:"
_SEAL_LENGTH = len(_SEAL) + 64
_NO_COMMENT = b"\0\0"  # the last bytes of a zip archive: the length of its comment


@contextmanager
def quietly() -> Iterator[None]:
    """Without Lightning's advice on loaders and log folders, which is not about these runs."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\.")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def same_generators_and_seed() -> Iterator[None]:
    """With the global random generators, and what Lightning notes of its seed, as before when it is over."""
    seeds = {name: os.environ.get(name) for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")}
    try:
        with same_generators():
            yield
    finally:
        for name, value in seeds.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def trainer_of(
    folder: RunFolder,
    best: BestEpoch,
    epochs: int,
    batches: int,
    *,
    done: Callable[[int, int, str], None] | None,
    **options: Any,
) -> lightning.Trainer:
    """The trainer of a run, which keeps the last checkpoint and the metrics in its folder.

    Args:
        folder: the run.
        best: notes the epoch to keep.
        epochs: passes over the training set.
        batches: Lightning's steps of an epoch.
        done: called with the steps that are over, the number of all and the metrics known so far; None to count nothing.
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
        "callbacks": [
            best,
            checkpoints,
            *([] if done is None else [_Counting(done)]),
            *options.pop("callbacks", []),
        ],
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "plugins": [_SealedCheckpoints()],
        "log_every_n_steps": min(50, batches),
    }
    try:
        trainer = lightning.Trainer(max_epochs=epochs, default_root_dir=folder.path, **{**own, **options})
    except (ValueError, TypeError, RuntimeError, MisconfigurationException) as error:
        raise InputError(f"accelerator, devices or strategy: Lightning refuses them ({error})") from error
    if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
        raise InputError(
            f"strategy={options.get('strategy', 'auto')!r}: what processes that are forked or spawned find is lost to this one; "
            "give 'ddp' in a script, or use a lightning.Trainer with wellposed.TrainingModule"
        )
    return trainer


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
        DivergedError: the weights became unusable.
        KeyboardInterrupt: training was interrupted.
    """
    options: dict[str, Any] = {}
    if resumed is not None:
        check_checkpoint(resumed)
        options["ckpt_path"] = str(resumed)
        if "weights_only" in inspect.signature(trainer.fit).parameters:  # of recent versions of Lightning
            options["weights_only"] = False
    try:
        trainer.fit(module, batches, evaluation, **options)
    except (InputError, GuaranteeError) as error:
        if not trainer.global_step:  # then it is about what was given
            raise
        raise DivergedError(
            f"training diverged in epoch {trainer.current_epoch + 1} ({error}); give a smaller learning_rate"
        ) from error
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


class _SealedCheckpoints(TorchCheckpointIO):
    """Checkpoints that appear whole or not at all, and end in their SHA-256, as the comment that zip archives may have."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        stream = io.BytesIO()
        torch.save(checkpoint, stream)
        archive = stream.getvalue()
        if not archive.endswith(_NO_COMMENT):
            raise CheckpointError(f"{path}: this version of torch writes checkpoints in another form than zip archives")
        body = archive.removesuffix(_NO_COMMENT) + _SEAL_LENGTH.to_bytes(2, "little")
        make_folder(Path(path).parent)
        write_bytes(Path(path), body + _SEAL + hashlib.sha256(body).hexdigest().encode())


def check_checkpoint(path: Path) -> None:
    """Refuse a checkpoint that is damaged.

    Raises:
        CheckpointError: it is.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); train anew") from error
    body, seal = content[:-_SEAL_LENGTH], content[-_SEAL_LENGTH:]
    sealed = seal == _SEAL + hashlib.sha256(body).hexdigest().encode()
    earlier = content.endswith(_NO_COMMENT) and zipfile.is_zipfile(path)  # before checkpoints had digests
    if not sealed and not (earlier and _is_intact(path)):
        raise CheckpointError(f"{path}: truncated or corrupt; delete it and train anew")


def _is_intact(path: Path) -> bool:
    """Whether the checksums of an archive are right."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, ValueError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error):
        return False


class _Counting(Callback):
    """Counts steps, and says the metrics that are known."""

    def __init__(self, done: Callable[[int, int, str], None]) -> None:
        self._done = done

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.is_global_zero:
            over = trainer.current_epoch * trainer.num_training_batches + batch_idx + 1
            shown = [f"{name} {float(value):.4g}" for name, value in sorted(trainer.callback_metrics.items())]
            steps = trainer.max_epochs * trainer.num_training_batches
            self._done(over, steps, ", ".join([f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}", *shown]))

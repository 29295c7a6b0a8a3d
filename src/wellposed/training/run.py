"""A training run and its folder.

``config.toml`` (resolved settings), ``metrics.csv``, ``checkpoints/last.ckpt`` (Lightning's, to resume from),
``weights.safetensors`` (the result) and whatever certify, attack and report add.
"""

from __future__ import annotations

import csv
import json
import logging
import os
import platform
import sys
import time
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wellposed.data import ImageData
from wellposed.errors import CheckpointError, InputError, require
from wellposed.layers.options import SolvingModule
from wellposed.solvers.solution import Tolerance
from wellposed.training.checkpoint import load_weights, save_weights
from wellposed.training.config import TrainConfig, read_config
from wellposed.training.loaders import Data, build_model, evaluation_batches, load_data, training_batches


@dataclass(frozen=True)
class RunFolder:
    """Names of the files of a run."""

    path: Path

    @property
    def config(self) -> Path:
        """Resolved settings, TOML."""
        return self.path / "config.toml"

    @property
    def weights(self) -> Path:
        """Final weights, safetensors."""
        return self.path / "weights.safetensors"

    @property
    def metrics(self) -> Path:
        """Metrics per epoch, CSV."""
        return self.path / "metrics.csv"

    @property
    def checkpoint(self) -> Path:
        """The state to resume from."""
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def environment(self) -> Path:
        """Versions, machine and duration, JSON."""
        return self.path / "environment.json"

    @property
    def certificate(self) -> Path:
        """The certificate, JSON."""
        return self.path / "certificate.json"

    @property
    def certified(self) -> Path:
        """Certified accuracy per radius, JSON."""
        return self.path / "certified.json"

    @property
    def attacked(self) -> Path:
        """Accuracy under attack per radius, JSON."""
        return self.path / "attacked.json"

    def clear_results(self) -> None:
        """Remove what an earlier training run left: it is about other weights."""
        stale = [
            self.weights,
            self.environment,
            self.metrics,
            self.certificate,
            self.certified,
            self.attacked,
            self.adversarial,
            self.checkpoint,
        ]
        patterns = ("metrics-*.csv", "verified-*.json", "certified-*.json", "attacked-*.json", "certificate*")
        results = [file for pattern in patterns for file in self.path.glob(pattern)]
        for path in (*stale, *results, self.path / "report.html"):
            path.unlink(missing_ok=True)

    @property
    def adversarial(self) -> Path:
        """The nearest adversarial examples, JSON."""
        return self.path / "adversarial.json"

    def create(self) -> None:
        """Make the folder and make sure that it can be written to."""
        try:
            self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise CheckpointError(
                f"{self.path}: cannot be written ({error.strerror or error}); choose another --out"
            ) from error


def train(
    config: TrainConfig,
    out: Path,
    *,
    data_root: Path | None = None,
    resume: bool = False,
    progress: bool = True,
    **trainer_options: Any,
) -> dict[str, float]:
    """Train a classifier into a run folder.

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
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.loggers import CSVLogger

    from wellposed.training.module import ClassifierModule
    from wellposed.training.progress import progress_callback

    folder = RunFolder(out)
    folder.create()
    if resume and not folder.checkpoint.exists():
        raise CheckpointError(f"{folder.checkpoint}: nothing to resume from; run without --resume")
    if resume and read_config(folder.config) != config:
        raise CheckpointError(
            f"{folder.config}: these settings differ from those of the run to resume; give the same, or none"
        )
    data = load_data(config, data_root)
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    model = build_model(config, data)
    if not resume:
        folder.clear_results()
    folder.config.write_text(config.to_toml(), encoding="utf-8")
    if resume and folder.metrics.exists():  # the logger starts a new file; `read_metrics` joins them
        earlier = sorted(out.glob("metrics-*.csv"))
        folder.metrics.rename(out / f"metrics-{len(earlier)}.csv")
    batches = training_batches(data, config)
    checkpoints = ModelCheckpoint(
        folder.checkpoint.parent,
        filename=folder.checkpoint.stem,
        save_top_k=1,
        every_n_epochs=1,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    options: dict[str, Any] = {
        "accelerator": "auto",
        "devices": 1,
        "logger": CSVLogger(out, name="", version=""),
        "callbacks": [checkpoints, *([progress_callback(config.epochs)] if progress else [])],
        "enable_progress_bar": progress and sys.stderr.isatty(),
        "enable_model_summary": False,
        "plugins": [_atomic_checkpoints()],
        "log_every_n_steps": min(50, len(batches)),
        **trainer_options,
    }
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    start = time.time()
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", module=r"lightning\."
        )  # advice on loaders and log folders, not about this run
        try:
            trainer = lightning.Trainer(max_epochs=config.epochs, default_root_dir=out, **options)
        except (ValueError, TypeError, RuntimeError) as error:
            raise InputError(f"accelerator, devices or strategy: Lightning refuses them ({error})") from error
        try:
            trainer.fit(
                ClassifierModule(model, config),
                batches,
                evaluation_batches(data, config),
                ckpt_path=str(_checked(folder.checkpoint)) if resume else None,
                **({"weights_only": False} if resume and _fit_takes_weights_only(trainer) else {}),
            )
        except SystemExit as stop:  # what recent versions of Lightning make of an interrupt
            raise KeyboardInterrupt from stop
    if trainer.interrupted:
        raise KeyboardInterrupt
    save_weights(model, config, folder.weights)
    environment = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "seconds": round(time.time() - start, 1),
    }
    folder.environment.write_text(json.dumps(environment, indent=1), encoding="utf-8")
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def load_run(path: Path, data_root: Path | None = None) -> tuple[TrainConfig, Data, nn.Module]:
    """Settings, data and trained model of a finished run.

    Raises:
        CheckpointError: not a finished run.
    """
    folder = RunFolder(path)
    if not folder.config.exists():
        raise CheckpointError(f"{path}: not a run folder (no config.toml); give the --out of `wellposed train`")
    config = read_config(folder.config)
    data = load_data(config, data_root)
    model = build_model(config, data)
    load_weights(model, config, folder.weights)
    for module in model.modules():
        if isinstance(module, SolvingModule):
            module.tolerance = Tolerance()  # the configured one is for training
    return config, data, model.eval()


def load_image_run(path: Path, data_root: Path | None = None) -> tuple[TrainConfig, ImageData, nn.Sequential]:
    """As `load_run`, for what is done with images only.

    Raises:
        InputError: the run is about graphs.
    """
    config, data, model = load_run(path, data_root)
    if not isinstance(data, ImageData) or not isinstance(model, nn.Sequential):
        raise InputError(f"run={str(path)!r}: a run on the graphs of {config.data}; this needs a run on images")
    return config, data, model


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Metrics per epoch of a run, in order."""
    merged: dict[int, dict[str, float]] = {}
    for file in (*sorted(path.glob("metrics-*.csv")), RunFolder(path).metrics):
        if not file.exists():
            continue
        with file.open(encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream):
                entry = merged.setdefault(int(row["epoch"]), {})
                entry.update({name: float(value) for name, value in row.items() if value})
    return [merged[epoch] for epoch in sorted(merged)]


def _checked(checkpoint: Path) -> Path:
    if not zipfile.is_zipfile(checkpoint):
        raise CheckpointError(f"{checkpoint}: truncated or corrupt; delete it and train anew")
    return checkpoint


def _fit_takes_weights_only(trainer: Any) -> bool:
    import inspect

    return "weights_only" in inspect.signature(trainer.fit).parameters


def _atomic_checkpoints() -> Any:
    """Checkpoints that appear whole or not at all: a kill in the middle of writing leaves the earlier one."""
    from lightning.pytorch.plugins.io import TorchCheckpointIO

    class AtomicCheckpointIO(TorchCheckpointIO):
        def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
            partial = f"{path}.part"
            super().save_checkpoint(checkpoint, partial, storage_options)
            os.replace(partial, path)

    return AtomicCheckpointIO()

"""Trained networks of recipes, and what every table says of one."""

from __future__ import annotations

import dataclasses
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from wellposed.data import load_images
from wellposed.errors import CheckpointError
from wellposed.experiments.iterations import iterations
from wellposed.experiments.learning import Learned, learned
from wellposed.reproduction.cell import Workspace, digest_of
from wellposed.reproduction.watching import measured as measured_after_epoch
from wellposed.training.config import TrainConfig, presets, read_config
from wellposed.training.files import make_folder, read_json
from wellposed.training.folder import RunFolder
from wellposed.training.run import load_image_run, load_run, train

_BATCH = 1000
_EPOCHS = "epochs.json"


def settings_of(config: TrainConfig) -> dict[str, Any]:
    """A configuration as settings of a cell; `TrainConfig.from_dict` reads it."""
    content = dataclasses.asdict(config)
    content["family"] = {"name": config.family.name, **content["family"]}
    return content


def preset_with(name: str, *, family: dict[str, Any] | None = None, **changes: Any) -> TrainConfig:
    """A preset with changes.

    Args:
        name: of the preset.
        family: changed options of the family.
        changes: changed options of the training.
    """
    config = presets()[name]
    return dataclasses.replace(config, family=dataclasses.replace(config.family, **(family or {})), **changes)


def trained(workspace: Workspace, config: TrainConfig, watched: int = 0) -> Path:
    """The run folder of a trained network, which is trained once however many recipes and processes ask for it.

    Args:
        workspace: of the recipe.
        config: the settings.
        watched: on how many test images to measure the network after every epoch; `epochs_of` reads what was found.

    Raises:
        CheckpointError: the folder holds another run.

    Warns:
        DamagedRunWarning: a finished network could not be read, and is trained again.
    """
    name = (
        f"{config.family.name}-{config.data}-{digest_of(settings_of(config))}{f'-watched-{watched}' if watched else ''}"
    )
    folder = RunFolder(workspace.out / "runs" / name)
    make_folder(folder.path.parent)
    with FileLock(folder.path.with_suffix(".lock")):
        damage = _damage(workspace, folder)
        if damage:
            warnings.warn(f"{folder.path}: damaged, and trained again ({damage})", DamagedRunWarning, stacklevel=2)
        if damage or not folder.environment.exists():  # written last
            begun = not damage and folder.checkpoint.exists() and folder.config.exists()
            resumed = begun and read_config(folder.config) == config
            watchers = [_watcher(workspace, config, folder.path, watched)] if watched else []
            train(config, folder.path, data_root=workspace.data_root, resume=resumed, callbacks=watchers)
        elif read_config(folder.config) != config:
            raise CheckpointError(f"{folder.path}: a run with other settings; delete it")
    return folder.path


class DamagedRunWarning(UserWarning):
    """A finished network in the folder of recipes cannot be read, and is trained again."""


def _damage(workspace: Workspace, folder: RunFolder) -> str:
    """Why a finished run cannot be read; empty where it can, or where none is finished."""
    if not folder.environment.exists():
        return ""
    try:
        load_run(folder.path, workspace.data_root)
    except CheckpointError as error:
        return str(error)
    return ""


def _watcher(workspace: Workspace, config: TrainConfig, run: Path, images: int) -> Any:
    from wellposed.training.every_epoch import EveryEpoch  # needs the extra for training

    data = load_images(config.data, workspace.data_root)
    x, y = data.test_x[:images], data.test_y[:images]
    return EveryEpoch(run / _EPOCHS, lambda model, device: measured_after_epoch(model, x.to(device), y.to(device)))


def epochs_of(run: Path) -> list[dict[str, float]]:
    """What was measured after every epoch of a watched run, see `wellposed.reproduction.watching.measured`.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    content = read_json(run / _EPOCHS, "delete the run and measure")
    found = content.get("epochs") if isinstance(content, dict) else content  # a list, before files had digests
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise CheckpointError(f"{run / _EPOCHS}: not what a training writes; delete the run and measure again")
    return found


@torch.no_grad()
def facts(workspace: Workspace, run: Path, limit: int | None = None, data: str | None = None) -> dict[str, Any]:
    """What every table says of a trained image classifier.

    Args:
        workspace: of the recipe.
        run: its folder.
        limit: only the first so many test images.
        data: another set whose test images to take; None for the run's own.

    Returns:
        ``test_error`` in %, ``majority_error`` in % of always naming the commonest class, ``classes_named`` of the predictions,
        ``parameters``, ``iterations`` of a solve on average, None without one, and ``microseconds`` of an input's evaluation.
    """
    _, own, model = load_image_run(run, workspace.data_root)
    images = own if data is None else load_images(data, workspace.data_root)
    x, y = images.test_x[:limit], images.test_y[:limit]
    begun = time.process_time()
    predictions = torch.cat([model(part).argmax(1) for part in x.split(_BATCH)])
    seconds = time.process_time() - begun
    what = learned(predictions, y)
    return {
        "test_error": 100.0 * what.error,
        "majority_error": 100.0 * what.majority_error,
        "classes_named": what.classes_named,
        "parameters": sum(part.numel() for part in model.parameters()),
        "iterations": iterations(model, x[:_BATCH]),
        "microseconds": 1e6 * seconds / len(y),
    }


def learned_nothing(measured: dict[str, Any]) -> str:
    """A sentence about a network that names one class, or errs no less than whoever always names the commonest; else empty."""
    return Learned(measured["test_error"], measured["majority_error"], measured["classes_named"]).remark

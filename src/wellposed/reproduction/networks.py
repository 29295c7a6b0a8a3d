"""Trained networks of recipes, and what every table says of one."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import nn

from wellposed.errors import CheckpointError
from wellposed.layers.implicit_layer import implicit_layers
from wellposed.reproduction.cell import Workspace, digest_of
from wellposed.training.config import TrainConfig, presets, read_config
from wellposed.training.files import make_folder
from wellposed.training.folder import RunFolder
from wellposed.training.run import load_image_run, train

_BATCH = 1000


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


def trained(workspace: Workspace, config: TrainConfig) -> Path:
    """The run folder of a trained network, which is trained once however many recipes and processes ask for it.

    Raises:
        CheckpointError: the folder holds another run.
    """
    name = f"{config.family.name}-{config.data}-{digest_of(settings_of(config))}"
    folder = RunFolder(workspace.out / "runs" / name)
    make_folder(folder.path.parent)
    with FileLock(folder.path.with_suffix(".lock")):
        if not folder.environment.exists():  # written last
            resumed = folder.checkpoint.exists() and folder.config.exists() and read_config(folder.config) == config
            train(config, folder.path, data_root=workspace.data_root, resume=resumed)
        elif read_config(folder.config) != config:
            raise CheckpointError(f"{folder.path}: a run with other settings; delete it")
    return folder.path


@torch.no_grad()
def facts(workspace: Workspace, run: Path, limit: int | None = None) -> dict[str, Any]:
    """What every table says of a trained image classifier.

    Args:
        workspace: of the recipe.
        run: its folder.
        limit: only the first so many test images.

    Returns:
        ``test_error`` in %, ``majority_error`` in % of always naming the commonest class, ``classes_named`` of the predictions,
        ``parameters``, ``iterations`` of a solve on average, None without one, and ``microseconds`` of an input's evaluation.
    """
    _, data, model = load_image_run(run, workspace.data_root)
    x, y = data.test_x[:limit], data.test_y[:limit]
    begun = time.process_time()
    predictions = torch.cat([model(part).argmax(1) for part in x.split(_BATCH)])
    seconds = time.process_time() - begun
    counts = torch.bincount(y)
    return {
        "test_error": 100.0 * float((predictions != y).double().mean()),
        "majority_error": 100.0 * (1.0 - float(counts.max()) / len(y)),
        "classes_named": len(predictions.unique()),
        "parameters": sum(part.numel() for part in model.parameters()),
        "iterations": _iterations(model, x[:_BATCH]),
        "microseconds": 1e6 * seconds / len(y),
    }


def _iterations(model: nn.Module, x: torch.Tensor) -> float | None:
    """Iterations of the solves of all implicit layers together, a mean over samples; None where there is none."""
    found = []

    def count(layer: Any, inputs: Any, output: Any) -> None:
        found.append(float(layer.solve(*inputs).steps.double().mean()))

    hooks = [layer.register_forward_hook(count) for layer in implicit_layers(model)]
    try:
        model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return sum(found) if found else None


def learned_nothing(measured: dict[str, Any]) -> str:
    """A sentence about a network that names one class, or errs no less than whoever always names the commonest; else empty."""
    if measured["classes_named"] == 1:
        return "Its predictions are constant: it has learned nothing, and whatever is certified of it says nothing."
    if measured["test_error"] >= measured["majority_error"]:
        return "It errs no less often than whoever always names the commonest class."
    return ""

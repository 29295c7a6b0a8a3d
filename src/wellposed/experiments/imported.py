"""Published weights as a run folder, for every command that works on one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from wellposed.data import ImageData, load_images
from wellposed.errors import CheckpointError, GuaranteeError, InputError, NotConvergedError, check, choices
from wellposed.interop import Published, read_published
from wellposed.layers.implicit_layer import implicit_layers
from wellposed.layers.options import solving_modules
from wellposed.names import DATA_SETS
from wellposed.solvers.solution import Status
from wellposed.training.checkpoint import save_weights
from wellposed.training.config import TrainConfig, write_config
from wellposed.training.files import write_json
from wellposed.training.folder import RunFolder
from wellposed.training.loaders import build_model

_BATCH = 1000
_STEP_LIMITS = (1000, 5000, 20000)  # badly conditioned networks need many steps


def import_run(
    file: Path,
    layout: str,
    out: Path,
    *,
    data: str,
    data_root: Path | None,
    m: float,
    gamma: float | None,
    stride: int | None = None,
    limit: int | None = None,
) -> tuple[RunFolder, float]:
    """Write a run with published weights.

    Args:
        file: the checkpoint.
        layout: see `wellposed.interop.LAYOUTS`.
        out: the run folder; created, but only once every equilibrium was found.
        data: name of the images that they were trained on.
        data_root: see `load_images`.
        m: see `read_published`.
        gamma: the Lipschitz bound, see `read_published`.
        stride: of the first convolution, see `read_published`.
        limit: number of test images that the error is measured on; None for all.

    Returns:
        The folder, and the error on the test images.

    Raises:
        CheckpointError: see `read_published`; or the network that the file describes could not be solved on the test images.
        InputError: the images have another size, or another number of classes.
    """
    check(limit is None or limit >= 1, "limit", limit, "must be at least 1")
    choices("data", data, DATA_SETS["images"])
    weights = read_published(file, layout, m=m, gamma=gamma, stride=stride)
    images = load_images(data, data_root)
    if weights.raw_grey and len(images.mean) == 1:
        images = replace(images, mean=(0.0,), std=(1.0,))
    options = dict(weights.options)
    if weights.windows is not None:
        options["pool"] = _pool(weights, images)
    for max_steps in _STEP_LIMITS:
        config = _config(weights.family, {**options, "max_steps": max_steps}, data)
        model = build_model(config, images).eval()
        _fill(model, weights)
        try:
            error = _error(model, images, limit)
            break
        except (NotConvergedError, GuaranteeError) as failure:
            if max_steps == _STEP_LIMITS[-1] or Status.MAX_STEPS.value not in str(failure):
                raise CheckpointError(
                    f"{file}: the network that it describes could not be solved on the images of {data}, so nothing was written "
                    f"({failure}); are layout, m, gamma and data those that it was trained with?"
                ) from failure
    _write(RunFolder(out), model, config, {"imported": file.name, "layout": layout, "seconds": 0.0})
    return RunFolder(out), error


def _write(folder: RunFolder, model: nn.Module, config: TrainConfig, circumstances: dict[str, object]) -> None:
    """The folder of a run whose network came from elsewhere."""
    folder.create()
    folder.clear_results()
    write_config(config, folder.config)
    save_weights(model, config, folder.weights)
    write_json(folder.environment, circumstances)


def _config(family: str, options: dict[str, object], data: str) -> TrainConfig:
    return TrainConfig.from_dict({"family": {"name": family, **options}, "data": data})


def _pool(weights: Published, images: ImageData) -> int:
    """Size of the windows that the last state is averaged over: as published if the head fits it, else what makes it fit."""
    config = _config(weights.family, {**weights.options, "pool": 1}, images.name)
    *_, layer = implicit_layers(build_model(config, images))
    rows = (layer.value_shape if layer.output is None else layer.state_shape)[1]
    windows = weights.windows or 1
    for pool in (weights.options.get("pool", 1), rows // windows):
        if pool >= 1 and rows // pool == windows:
            return int(pool)
    raise InputError(
        f"data: the head sees {windows} rows of windows, into which the {rows} rows of the state at these images do not fall; "
        "give the --data that it was trained on, and its --stride"
    )


@torch.no_grad()
def _error(model: nn.Module, images: ImageData, limit: int | None) -> float:
    """Share of the first test images that are misclassified.

    Raises:
        NotConvergedError: an equilibrium was not found.
    """
    for part in solving_modules(model):
        part.on_failure = "raise"
    x, y = images.test_x[:limit], images.test_y[:limit]
    wrong = [
        int((model(some).argmax(1) != labels).sum())
        for some, labels in zip(x.split(_BATCH), y.split(_BATCH), strict=True)
    ]
    return sum(wrong) / len(y)


@torch.no_grad()
def _fill(model: nn.Module, weights: Published) -> None:
    """Copy every tensor of the file into the part of the model that has one of its name."""
    left = [list(group) for group in (weights.layers, weights.norms, weights.linears)]
    for part in model.children():
        known = {**dict(part.named_parameters()), **dict(part.named_buffers())}
        fit = next((group for group in left if group and group[0].keys() <= known.keys()), None)
        for name, value in fit.pop(0).items() if fit else ():
            found, needed = tuple(value.shape), tuple(known[name].shape)
            if found != needed:
                raise InputError(
                    f"data: the file's weights have shape {found} where these images need {needed}; give the --data that it was "
                    "trained on"
                )
            known[name].copy_(value)
    assert not any(left)
    if not all(bool(torch.isfinite(part).all()) for part in (*model.parameters(), *model.buffers())):
        raise CheckpointError("weights: too large for float32")

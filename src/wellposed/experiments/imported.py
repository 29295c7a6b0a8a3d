"""Published weights as a run folder, for every command that works on one."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from wellposed.data import ImageData
from wellposed.errors import CheckpointError, InputError
from wellposed.interop import DenseWeights, read_dense
from wellposed.layers.equilibrium import Equilibrium
from wellposed.models.families import DEQFamily, MonDEQFamily
from wellposed.training.checkpoint import save_weights
from wellposed.training.config import TrainConfig
from wellposed.training.loaders import build_model, load_data
from wellposed.training.run import RunFolder


def import_run(
    file: Path, layout: str, out: Path, *, data: str, data_root: Path | None, m: float, gamma: float | None
) -> tuple[RunFolder, float]:
    """Write a run with published weights: monotone ones with their free parameters, others by their matrix W.

    Args:
        file: the checkpoint.
        layout: see `wellposed.interop.LAYOUTS`.
        out: the run folder; created.
        data: name of the images that they were trained on.
        data_root: see `load_images`.
        m: see `read_dense`.
        gamma: likewise.

    Returns:
        The folder, and the error on the test set.

    Raises:
        CheckpointError: see `read_dense`.
        InputError: the images have another size, or another number of classes.
    """
    weights = read_dense(file, layout, m=m, gamma=gamma)
    width = len(weights.matrix)
    family = MonDEQFamily(width=width, m=m) if weights.free is not None else DEQFamily(width=width, activation="relu")
    config = TrainConfig(family=family, data=data)
    images = load_data(config, data_root)
    assert isinstance(images, ImageData)
    model = build_model(config, images)
    _fill(model, weights)
    folder = RunFolder(out)
    folder.create()
    folder.clear_results()
    folder.config.write_text(config.to_toml(), encoding="utf-8")
    save_weights(model, config, folder.weights)
    folder.environment.write_text(
        json.dumps({"imported": file.name, "layout": layout, "seconds": 0.0}), encoding="utf-8"
    )
    with torch.no_grad():
        wrong = [
            int((model(x).argmax(1) != y).sum())
            for x, y in zip(images.test_x.split(1000), images.test_y.split(1000), strict=True)
        ]
    return folder, sum(wrong) / len(images.test_y)


@torch.no_grad()
def _fill(model: nn.Module, weights: DenseWeights) -> None:
    layer = next(part for part in model.modules() if isinstance(part, Equilibrium))
    head = [part for part in model.modules() if isinstance(part, nn.Linear)][-1]
    pairs = [
        (layer.injection.weight, weights.weight), (layer.injection.bias, weights.bias),
        (head.weight, weights.output), (head.bias, weights.output_bias),
    ]  # fmt: skip
    if weights.free is not None:
        pairs += [(layer.constraint.A, weights.free[0]), (layer.constraint.B, weights.free[1])]
    else:
        pairs.append((layer.constraint.W, weights.matrix))
    for parameter, value in pairs:
        if parameter.shape != value.shape:
            raise InputError(
                f"data: the file's weights have shape {tuple(value.shape)} where these images need {tuple(parameter.shape)}; "
                "give the --data that it was trained on"
            )
        parameter.copy_(value)
    if not all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters()):
        raise CheckpointError("weights: too large for float32")

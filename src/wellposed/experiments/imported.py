"""Published weights as a run folder, for every command that works on one."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from wellposed.data import load_images
from wellposed.errors import CheckpointError, InputError
from wellposed.interop import Published, read_published
from wellposed.layers import Normalize
from wellposed.layers.equilibrium import Equilibrium
from wellposed.training.checkpoint import save_weights
from wellposed.training.config import TrainConfig
from wellposed.training.loaders import build_model
from wellposed.training.run import RunFolder


def import_run(
    file: Path, layout: str, out: Path, *, data: str, data_root: Path | None, m: float, gamma: float | None
) -> tuple[RunFolder, float]:
    """Write a run with published weights.

    Args:
        file: the checkpoint.
        layout: see `wellposed.interop.LAYOUTS`.
        out: the run folder; created.
        data: name of the images that they were trained on.
        data_root: see `load_images`.
        m: see `read_published`.
        gamma: likewise.

    Returns:
        The folder, and the error on the test set.

    Raises:
        CheckpointError: see `read_published`.
        InputError: the images have another size, or another number of classes.
    """
    weights = read_published(file, layout, m=m, gamma=gamma)
    images = load_images(data, data_root)
    options = dict(weights.options)
    if weights.windows is not None:
        options["pool"] = max((images.train_x.shape[2] + 2) // weights.windows, 1)
    config = TrainConfig.from_dict({"family": {"name": weights.family, **options}, "data": data})
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
def _fill(model: nn.Module, weights: Published) -> None:
    layers = [part for part in model.children() if isinstance(part, Equilibrium)]
    norms = [part for part in model.children() if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d)]
    heads = [part for part in model.children() if isinstance(part, nn.Linear)]
    groups = [*weights.layers, *weights.norms, *([weights.head] if heads else [])]
    pairs = []
    for part, tensors in zip([*layers, *norms, *heads], groups, strict=True):
        known = {**dict(part.named_parameters()), **dict(part.named_buffers())}
        pairs += [(known[name], value) for name, value in tensors.items()]
    for parameter, value in pairs:
        if parameter.shape != value.shape:
            raise InputError(
                f"data: the file's weights have shape {tuple(value.shape)} where these images need {tuple(parameter.shape)}; "
                "give the --data that it was trained on"
            )
        parameter.copy_(value)
    for norm in model.children():
        if isinstance(norm, Normalize) and weights.raw_grey and norm.mean.numel() == 1:
            norm.mean.zero_()
            norm.std.fill_(1.0)
    if not all(bool(torch.isfinite(part).all()) for part in (*model.parameters(), *model.buffers())):
        raise CheckpointError("weights: too large for float32")

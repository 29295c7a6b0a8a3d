"""One epoch of a preset on CIFAR-10, or on synthetic images of its size."""

from __future__ import annotations

import dataclasses
import itertools
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wellposed.data import ImageData, load_images
from wellposed.training.config import presets
from wellposed.training.loaders import build_model, training_batches
from wellposed.training.losses import project

PRESET = "papers/cifar10-mondeq-conv"
_IMAGES, _TINY = 50_000, 2


def epoch(device: torch.device, data_root: Path | None, *, seconds: float, tiny: bool) -> dict[str, Any]:
    """Train for one pass over the images, or for so many seconds.

    Args:
        device: to train on.
        data_root: where CIFAR-10 is; None for synthetic images.
        seconds: after which no further step begins.
        tiny: two images, two channels.

    Returns:
        The preset, the images' name, how many there are and how many were seen, seconds, and the loss of the last step.
    """
    config = presets()[PRESET]
    if tiny:
        config = dataclasses.replace(config, family=dataclasses.replace(config.family, width=2))
    data = _synthetic(_TINY if tiny else _IMAGES) if data_root is None else load_images("cifar10", data_root)
    torch.manual_seed(0)
    model = build_model(config, data).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    seen, loss, start = 0, torch.zeros((), device="cpu"), time.perf_counter()
    for images, labels in itertools.chain.from_iterable(training_batches(data, config)):
        if time.perf_counter() - start > seconds:
            break
        optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(model(images.to(device)), labels.to(device))
        loss.backward()
        optimizer.step()
        project(model)
        seen += len(labels)
    last = float(loss.detach())  # waits for the device
    return {
        "preset": PRESET, "data": data.name, "images": len(data.train_y), "seen": seen,
        "seconds": time.perf_counter() - start, "loss": last,
    }  # fmt: skip


def _synthetic(images: int) -> ImageData:
    """Noise with ten classes."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(images, 3, 32, 32, generator=generator, device="cpu")
    y = torch.randint(10, (images,), generator=generator, device="cpu")
    return ImageData(
        name="synthetic images", train_x=x, train_y=y, test_x=x[:1], test_y=y[:1], mean=(0.5,) * 3, std=(0.25,) * 3
    )

"""Data, model and batches of a configuration: what differs between images and graphs is decided here."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from wellposed.data import GraphData, ImageData, load_graphs, load_images
from wellposed.errors import require
from wellposed.layers.options import SolvingModule
from wellposed.models import GraphClassifier, classifier
from wellposed.training.config import TrainConfig

Data = ImageData | GraphData
Model = TypeVar("Model", bound=nn.Module)


def load_data(config: TrainConfig, data_root: Path | None) -> Data:
    """The data set of a configuration."""
    if config.family.domain == "graphs":
        return load_graphs(config.data, data_root, config.fold)
    return load_images(config.data, data_root)


def build_model(config: TrainConfig, data: Data) -> nn.Module:
    """The model that a configuration describes, for a data set, with fresh weights."""
    family = config.family
    if isinstance(data, GraphData):
        *layers, head = family.build((data.features,), data.classes)
        return _limited(GraphClassifier(tuple(layers), head), family.max_steps)
    body = family.build(tuple(data.train_x.shape[1:]), data.classes)
    std = data.std if family.scales_input else tuple(1.0 for _ in data.std)
    return _limited(classifier(body, data.mean, std), family.max_steps)


def _limited(model: Model, max_steps: int) -> Model:
    """The model with that limit on the iterations of every solve."""
    for part in model.modules():
        if isinstance(part, SolvingModule):
            part.max_steps = max_steps
    return model


def training_batches(data: Data, config: TrainConfig) -> Any:
    """Batches of inputs and labels in an order that depends on the seed and the epoch alone."""
    order = torch.utils.data.RandomSampler(range(_training_size(data)), generator=torch.Generator())
    return _loader(data, "train", _Batches(order, config.batch_size, config.seed))


def evaluation_batches(data: Data, config: TrainConfig) -> list[Any]:
    """The test set and, where there is one, the validation set, in large batches."""
    parts = ("test", "validation") if isinstance(data, GraphData) else ("test",)
    size = config.batch_size if isinstance(data, GraphData) else 1000
    return [
        _loader(data, part, _Batches(torch.utils.data.SequentialSampler(range(len(_part(data, part)[1]))), size, 0))
        for part in parts
    ]


def _training_size(data: Data) -> int:
    return len(_part(data, "train")[1])


def _part(data: Data, part: str) -> tuple[Any, Tensor]:
    if isinstance(data, ImageData):
        return (data.train_x, data.train_y) if part == "train" else (data.test_x, data.test_y)
    chosen = {"train": data.train, "validation": data.validation, "test": data.test}[part]
    return [data.graphs[i] for i in chosen.tolist()], data.labels[chosen]


def _loader(data: Data, part: str, batches: _Batches) -> Any:
    """The standard loader, indexing whole batches at once: collating image by image costs more than a training step."""
    inputs, labels = _part(data, part)
    if isinstance(data, ImageData):
        whole: Any = torch.utils.data.TensorDataset(inputs, labels)
        return torch.utils.data.DataLoader(whole, sampler=batches, batch_size=None)
    collate = require("torch_geometric.data", "graph").Batch.from_data_list
    pairs: Any = list(zip(inputs, labels, strict=True))

    def joined(samples: list[tuple[Any, Tensor]]) -> tuple[Any, Tensor]:
        graphs, classes = zip(*samples, strict=True)
        return collate(list(graphs)), torch.stack(classes)

    return torch.utils.data.DataLoader(pairs, batch_sampler=batches, collate_fn=joined)


class _Batches(torch.utils.data.BatchSampler):
    """Batches whose order depends on seed and epoch alone, so that a resumed run sees what an uninterrupted one sees."""

    def __init__(self, sampler: Any, batch_size: int, seed: int) -> None:
        super().__init__(sampler, batch_size, drop_last=False)
        self._seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of every epoch."""
        generator = getattr(self.sampler, "generator", None)
        if generator is not None:
            generator.manual_seed(self._seed * 1_000_003 + epoch)

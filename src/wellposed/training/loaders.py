"""Data, model and batches of a configuration."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler

from wellposed.data import Data
from wellposed.data.collection import load
from wellposed.layers.options import solving_modules
from wellposed.training.config import TrainConfig

_STEPS = 16  # of training in one of Lightning's: its bookkeeping takes a fourth of the time of a small network's step


def load_data(config: TrainConfig, data_root: Path | None) -> Data:
    """The data set of a configuration."""
    return load(config.data, data_root, fold=config.fold, validation=config.validation)


def build_model(config: TrainConfig, data: Data) -> nn.Module:
    """The model that a configuration describes, for a data set, with fresh weights."""
    model = config.family.model(data)
    for part in solving_modules(model):
        part.max_steps = config.family.max_steps
    return model


def training_batches(data: Data, config: TrainConfig) -> Stretches:
    """Batches of inputs and labels in an order that depends on the seed and the epoch alone."""
    order = RandomSampler(range(len(data.labels_of("train"))), generator=torch.Generator())
    batches = _Batches(order, config.batch_size, config.seed)
    return Stretches(data.loader("train", batches), batches)


def evaluation_batches(data: Data, config: TrainConfig, part: str) -> Any:
    """The samples of a part in order, in large batches."""
    order = SequentialSampler(range(len(data.labels_of(part))))
    return data.loader(part, _Batches(order, data.evaluation_size(config.batch_size), 0))


def epoch_seed(seed: int, epoch: int) -> int:
    """The seed of what is drawn in one epoch.

    Args:
        seed: of the training.
        epoch: counted from zero.
    """
    return seed * 1_000_003 + epoch


class Stretches:
    """Batches, several at a time.

    Args:
        loader: of batches.
        batches: the order that the loader follows.

    Attributes:
        sampler: the order, by the name under which Lightning looks for what has epochs.
        steps: number of batches.
    """

    def __init__(self, loader: DataLoader[Any], batches: BatchSampler) -> None:
        self._loader, self.sampler, self.steps = loader, batches, len(batches)

    def __len__(self) -> int:
        return -(-self.steps // _STEPS)

    def __iter__(self) -> Iterator[list[Any]]:
        batches = iter(self._loader)
        while stretch := list(itertools.islice(batches, _STEPS)):
            yield stretch


class _Batches(BatchSampler):
    """Batches whose order depends on seed and epoch alone, so that a resumed run sees what an uninterrupted one sees."""

    def __init__(self, sampler: Any, batch_size: int, seed: int) -> None:
        super().__init__(sampler, batch_size, drop_last=False)
        self._seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of every epoch."""
        generator = getattr(self.sampler, "generator", None)
        if generator is not None:
            generator.manual_seed(epoch_seed(self._seed, epoch))

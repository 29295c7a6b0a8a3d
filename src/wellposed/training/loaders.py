"""Data, model and batches of a configuration."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler

from wellposed.data import Data, TensorData, load_file
from wellposed.data.collection import load
from wellposed.layers.options import solving_modules
from wellposed.training.config import TrainConfig

_STEPS = 16  # of training in one of Lightning's: its bookkeeping takes a fourth of the time of a small network's step


def load_data(config: TrainConfig, data_root: Path | None) -> Data:
    """The data set of a configuration.

    Raises:
        InputError: the configuration is not about such samples.
        DataError: its files cannot be had or used.
    """
    if not config.is_own:
        return load(config.data, data_root, fold=config.fold, validation=config.validation)
    data = load_file(Path(config.data), task=config.task, target=config.target)
    config.check_inputs(data.inputs)
    return held_out(data, config.validation)


def held_out(data: TensorData, validation: float) -> TensorData:
    """A user's own set with samples to choose an epoch by: its own validation part, or a share of the training samples.

    Args:
        data: the set.
        validation: the share, for sets without such a part; 0 to choose nothing.
    """
    if not validation:
        return replace(data, validation_x=None, validation_y=None)
    return data if data.validation_x is not None else data.divided(validation)


def build_model(config: TrainConfig, data: Data) -> nn.Module:
    """The model that a configuration describes, for a data set, with fresh weights."""
    model = config.family.model(data)
    for part in solving_modules(model):
        part.max_steps = config.family.max_steps
    return model


def training_batches(data: Data, config: TrainConfig) -> Stretches:
    """Batches of inputs and labels in an order that depends on the seed and the epoch alone."""
    batches = _shuffled(data, config.batch_size, config.seed)
    return Stretches(data.loader("train", batches), batches)


def training_loader(data: Data, batch_size: int, seed: int) -> DataLoader[Any]:
    """The training samples in an order that depends on the seed and the epoch alone.

    Args:
        data: the set.
        batch_size: samples in one batch.
        seed: of the order.
    """
    return data.loader("train", _shuffled(data, batch_size, seed))


def _shuffled(data: Data, batch_size: int, seed: int) -> _Batches:
    order = RandomSampler(range(len(data.labels_of("train"))), generator=torch.Generator())
    return _Batches(order, batch_size, seed)


def evaluation_batches(data: Data, config: TrainConfig, part: str) -> Any:
    """The samples of a part in order, in large batches."""
    return evaluation_loader(data, config.batch_size, part)


def evaluation_loader(data: Data, batch_size: int, part: str) -> DataLoader[Any]:
    """The samples of a part in order.

    Args:
        data: the set.
        batch_size: samples in a batch of training; batches to evaluate may be larger.
        part: its name.
    """
    order = SequentialSampler(range(len(data.labels_of(part))))
    return data.loader(part, _Batches(order, data.evaluation_size(batch_size), 0))


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

"""Data, model and batches of a configuration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import DataLoader

from wellposed.data import Data, TensorData, load_file
from wellposed.data.collection import load
from wellposed.layers.options import solving_modules
from wellposed.training.batches import Batches, Stretches
from wellposed.training.config import TrainConfig
from wellposed.training.room import check_room


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
    check_room(config.family, data)
    model = config.family.model(data)
    for part in solving_modules(model):
        part.max_steps = config.family.max_steps
    return model


def training_batches(data: Data, config: TrainConfig) -> Stretches:
    """Batches of inputs and labels in an order that depends on the seed and the epoch alone."""
    batches = Batches(len(data.labels_of("train")), config.batch_size, config.seed)
    return Stretches(data.loader("train", batches), batches)


def training_loader(data: Data, batch_size: int, seed: int) -> DataLoader[Any]:
    """The training samples in an order that depends on the seed and the epoch alone.

    Args:
        data: the set.
        batch_size: samples in one batch, of one process.
        seed: of the order.
    """
    return data.loader("train", Batches(len(data.labels_of("train")), batch_size, seed))


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
    return data.loader(part, Batches(len(data.labels_of(part)), data.evaluation_size(batch_size), None))

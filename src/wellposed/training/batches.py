"""The order of samples: batches, divided among processes that train together, and several of them at a time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler
from typing_extensions import override

from wellposed.training.processes import place

_STEPS = 16  # of training in one of Lightning's: its bookkeeping takes a fourth of the time of a small network's step
BATCH_SIZE, EPOCHS = 128, 20  # where samples are many
_IN_AN_EPOCH, _IN_ALL = 10, 1000  # steps that a training on few samples has at least


def suited(samples: int, batch_size: int | None, epochs: int | None) -> tuple[int, int]:
    """Size of a batch and number of epochs of a training on a user's own samples, with what was given left as it is.

    Few samples are passed over more often, in smaller batches: a training takes about a thousand steps at least, ten of them in
    an epoch. From 6,400 samples on, batches have 128, and there are 20 epochs.

    Args:
        samples: number of training samples.
        batch_size: as given; None for one that suits the samples.
        epochs: as given; None for what suits samples and batches.
    """
    size = max(1, min(BATCH_SIZE, samples // _IN_AN_EPOCH)) if batch_size is None else batch_size
    steps = math.ceil(samples / size)
    return size, max(EPOCHS, math.ceil(_IN_ALL / steps)) if epochs is None else epochs


def epoch_seed(seed: int, epoch: int) -> int:
    """The seed of what is drawn in one epoch.

    Args:
        seed: of the training.
        epoch: counted from zero.
    """
    return seed * 1_000_003 + epoch


class Batches(DistributedSampler[Any]):
    """Places of the samples of each batch, which are drawn anew every epoch from seed and epoch alone, or stand in order.

    N processes step through what one process would see with a batch N times as large: each takes every N-th sample of it. Samples
    that are fewer than the processes are taken by all of them, and so count N times in the mean of an epoch's losses. Samples in
    order are to be evaluated, each once: a rest that is smaller than N goes with the batch before. So does a single sample
    that is left over in training, which batch normalisation could do nothing with. Lightning leaves samplers of this class alone.

    Args:
        samples: how many there are.
        batch_size: samples of one process in one batch.
        seed: of the order; None for samples in order.
    """

    def __init__(self, samples: int, batch_size: int, seed: int | None) -> None:
        given: Any = range(samples)
        super().__init__(given, num_replicas=1, rank=0)  # which process this is is asked anew in every epoch
        self._samples, self._batch_size, self._seed = samples, batch_size, seed
        self._generator = torch.Generator(device="cpu")
        self.set_epoch(0)

    @override
    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of every epoch."""
        if self._seed is not None:
            self._generator.manual_seed(epoch_seed(self._seed, epoch))

    def _sizes(self) -> list[int]:
        """Samples of all processes together in each batch."""
        processes = place()[1]
        whole, rest = divmod(self._samples, self._batch_size * processes)
        sizes = [self._batch_size * processes] * whole + [rest] * (rest > 0)
        if whole and 0 < rest < (processes if self._seed is None else 2):
            sizes[-2:] = [sum(sizes[-2:])]
        return sizes

    @override
    def __len__(self) -> int:
        return len(self._sizes())

    @override
    def __iter__(self) -> Iterator[list[int]]:
        rank, processes = place()
        for together in self._order().split(self._sizes()):
            mine = together[rank::processes] if len(together) >= processes else together
            yield mine.tolist()

    def _order(self) -> Tensor:
        if self._seed is None:
            return torch.arange(self._samples, device="cpu")
        return torch.randperm(self._samples, generator=self._generator, device="cpu")


class Stretches:
    """Batches, several at a time.

    Args:
        loader: of batches.
        batches: the order that the loader follows.

    Attributes:
        sampler: the order, by the name under which Lightning looks for what has epochs.
    """

    def __init__(self, loader: DataLoader[Any], batches: Batches) -> None:
        self._loader, self.sampler = loader, batches

    @property
    def steps(self) -> int:
        """Number of batches of an epoch, for the processes that train together by now."""
        return len(self.sampler)

    def __len__(self) -> int:
        return -(-self.steps // _STEPS)

    def __iter__(self) -> Iterator[list[Any]]:
        batches = iter(self._loader)
        while stretch := list(itertools.islice(batches, _STEPS)):
            yield stretch

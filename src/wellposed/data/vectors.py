"""Sets whose inputs are vectors of numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.data.base import TensorData
from wellposed.data.tasks import Regression, Task
from wellposed.errors import checked_options, choices

_REACH = 5.0  # inputs of the function lie in ± this
_TRAINING, _TESTING = 2000, 1000


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class VectorData(TensorData):
    """A set of vectors, with classes or with numbers to estimate.

    Attributes:
        learned: what networks learn of it.
    """

    inputs = "vectors"

    learned: Task

    @property
    @override
    def task(self) -> Task:
        return self.learned

    @property
    @override
    def units(self) -> str:
        return "the columns' own units"

    @property
    @override
    def box(self) -> tuple[Tensor, Tensor]:
        known = [self.train_x, self.test_x, *([] if self.validation_x is None else [self.validation_x])]
        every = torch.cat(known)
        return every.amin(0), every.amax(0)

    @override
    def as_vectors(self, argument: str) -> VectorData:
        return self


def damped_cosine(x: Tensor) -> Tensor:
    """5·cos(πx)·exp(−|x|/2) of every entry; its steepest slopes, near ±0.4, are 12.86 in size."""
    return 5.0 * torch.cos(math.pi * x) * torch.exp(-0.5 * x.abs())


def _function_estimation() -> VectorData:
    """`damped_cosine` between −5 and 5: 2,000 random inputs to train on and 1,000 even ones to test on, the same in every run."""
    generator = torch.Generator().manual_seed(0)
    train_x = _REACH * (2.0 * torch.rand(_TRAINING, 1, generator=generator, device="cpu") - 1.0)
    test_x = torch.linspace(-_REACH, _REACH, _TESTING, device="cpu")[:, None]
    return VectorData(
        name="function-estimation", train_x=train_x, train_y=damped_cosine(train_x), test_x=test_x,
        test_y=damped_cosine(test_x), mean=(0.0,), std=(_REACH / 3.0**0.5,), learned=Regression(1),
    )  # fmt: skip


_SETS: dict[str, Callable[[], VectorData]] = {"function-estimation": _function_estimation}
VECTOR_NAMES = tuple(_SETS)


@checked_options
def load_vectors(name: str) -> VectorData:
    """Load a set of vectors by name.

    Args:
        name: ``function-estimation``, one function of one number, which is made and not read.

    Raises:
        InputError: no set has that name.
    """
    choices("data", name, VECTOR_NAMES)
    return _SETS[name]()

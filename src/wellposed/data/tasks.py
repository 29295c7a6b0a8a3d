"""What networks learn from a data set: its loss, the score that epochs are compared by, and how reports put it in words."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from wellposed.errors import checked_fields


@checked_fields
@dataclass(frozen=True)
class Task(ABC):
    """What the outputs of a network are compared with, and how.

    Attributes:
        outputs: how many numbers a network gives for one input.
        score: name of the score in the metrics of runs; the mean over the samples.
        has_logits: whether the outputs are logits of classes.
    """

    outputs: int
    score: ClassVar[str]
    has_logits: ClassVar[bool]

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What training makes small, a mean over samples, with its graph.

        Args:
            outputs: of the network, shape (batch, outputs).
            targets: what the data set gives.
        """

    @property
    def units(self) -> tuple[Tensor, Tensor] | None:
        """Mean and standard deviation of the targets, float64, shapes (outputs,); None where models give outputs as they are."""
        return None

    def in_units(self, raw: Tensor) -> Tensor:
        """Outputs in the units of the targets.

        Args:
            raw: outputs of a model in training, standardised where the targets have units, shape (batch, outputs).
        """
        if self.units is None:
            return raw
        mean, std = self.units
        return raw * std.to(raw) + mean.to(raw)

    @staticmethod
    @abstractmethod
    def score_of(outputs: Tensor, targets: Tensor) -> Tensor:
        """The score, a mean over samples; arguments as those of `loss`."""

    @staticmethod
    @abstractmethod
    def is_worse(score: float, than: float) -> bool:
        """Whether a score is worse than another."""

    @staticmethod
    @abstractmethod
    def in_words(score: float) -> str:
        """The score with its name and unit, as after "test"."""


class Classification(Task):
    """Inputs belong to classes: ``outputs`` logits, of which the largest decides; targets are int64, shape (batch,)."""

    score = "accuracy"
    has_logits = True

    @override
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets)

    @staticmethod
    @override
    def score_of(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(1) == targets).float().mean()

    @staticmethod
    @override
    def is_worse(score: float, than: float) -> bool:
        return score < than

    @staticmethod
    @override
    def in_words(score: float) -> str:
        return f"accuracy {100 * score:.2f} %"


@checked_fields
@dataclass(frozen=True)
class Regression(Task):
    """Outputs are numbers to come close to: targets are floating point, shape (batch, outputs).

    Where targets have units of their own, a model in training gives standardised outputs, and the loss is in standard deviations.

    Attributes:
        mean: of every target in the training part; empty where models give outputs as they are from the start.
        std: as many standard deviations.
    """

    mean: tuple[float, ...] = field(default=(), compare=False)
    std: tuple[float, ...] = field(default=(), compare=False)

    score = "mean_squared_error"
    has_logits = False

    @override
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        unit = 1.0 if self.units is None else self.units[1].to(outputs)
        return nn.functional.mse_loss(outputs / unit, targets / unit)

    @property
    @override
    def units(self) -> tuple[Tensor, Tensor] | None:
        if not self.std:
            return None
        mean, std = torch.tensor([self.mean, self.std], dtype=torch.float64, device="cpu")
        return mean, std

    @staticmethod
    @override
    def score_of(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.mse_loss(outputs, targets)

    @staticmethod
    @override
    def is_worse(score: float, than: float) -> bool:
        return score > than

    @staticmethod
    @override
    def in_words(score: float) -> str:
        return f"root mean squared error {score**0.5:.4g}"


def in_words(metrics: Mapping[str, float], part: str) -> str:
    """The score of a part of the data among the metrics of a run, with its name and unit.

    Args:
        metrics: of the run.
        part: ``"test"`` or ``"validation"``.
    """
    (task,) = (task for task in (Classification, Regression) if f"{part}/{task.score}" in metrics)
    return task.in_words(metrics[f"{part}/{task.score}"])

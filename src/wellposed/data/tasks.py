"""What networks learn from a data set: its loss, the score that epochs are compared by, and how reports put it in words."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from typing_extensions import override


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

    @staticmethod
    @abstractmethod
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        """What training makes small, a mean over samples, with its graph.

        Args:
            outputs: of the network, shape (batch, outputs).
            targets: what the data set gives.
        """

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

    @staticmethod
    @override
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
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


class Regression(Task):
    """Outputs are numbers to come close to: targets are floating point, shape (batch, outputs)."""

    score = "mean_squared_error"
    has_logits = False

    @staticmethod
    @override
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.mse_loss(outputs, targets)

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

"""What networks learn from a data set: its loss, the score that epochs are compared by, and how reports put it in words."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override


@dataclass(frozen=True)
class Task(ABC):
    """What the outputs of a network are compared with, and how.

    Attributes:
        outputs: how many numbers a network gives for one input.
        score: name of the score in the metrics of runs; the mean over the samples.
        has_logits: whether the outputs are logits of classes.
        unlearned: what is said of a network whose score is no better than that of the best constant answer.
    """

    outputs: int
    score: ClassVar[str]
    has_logits: ClassVar[bool]
    unlearned: ClassVar[str]

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

    @property
    def unit(self) -> float:
        """What errors of outputs are measured by: the largest standard deviation of a target; 1 for outputs without units."""
        return 1.0 if self.units is None else float(self.units[1].max())

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

    @staticmethod
    @abstractmethod
    def constant_score(targets: Tensor) -> float:
        """The best score of an answer that is the same for all inputs.

        Args:
            targets: what the data set gives, at least one.
        """


class Classification(Task):
    """Inputs belong to classes: ``outputs`` logits, of which the largest decides; targets are int64, shape (batch,)."""

    score = "accuracy"
    has_logits = True
    unlearned = "it errs no less often than whoever always names the commonest class"

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

    @staticmethod
    @override
    def constant_score(targets: Tensor) -> float:
        return int(torch.bincount(targets).max()) / len(targets)


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
    unlearned = "it is no closer to the targets than whoever always says their mean"

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

    @staticmethod
    @override
    def constant_score(targets: Tensor) -> float:
        return float((targets.double() - targets.double().mean(0)).square().mean())


_TASKS: tuple[type[Task], ...] = (Classification, Regression)
_CONSTANT = "test/constant_"  # before the name of a score: the best one of a constant answer
_ROUNDING = 1e-6  # of scores, relative


def beside_a_constant(task: Task, targets: Tensor) -> dict[str, float]:
    """The best score of a constant answer on the test part, as metrics of a run have it.

    Args:
        task: what is learned.
        targets: of the test part.
    """
    return {f"{_CONSTANT}{task.score}": task.constant_score(targets)}


def nothing_learned(metrics: Mapping[str, float]) -> str:
    """What is to be said of a run whose test score is no better than that of a constant answer, in words; else empty.

    Args:
        metrics: of the run; those of earlier versions say nothing of constant answers.
    """
    for task in _TASKS:
        found, constant = metrics.get(f"test/{task.score}"), metrics.get(f"{_CONSTANT}{task.score}")
        if found is not None and constant is not None:
            close = abs(found - constant) <= _ROUNDING * abs(constant)
            return f"{task.unlearned} ({task.in_words(constant)})" if close or task.is_worse(found, constant) else ""
    return ""


def in_words(metrics: Mapping[str, float], part: str) -> str:
    """The score of a part of the data among the metrics of a run, with its name and unit.

    Args:
        metrics: of the run.
        part: ``"test"`` or ``"validation"``.
    """
    (task,) = (task for task in _TASKS if f"{part}/{task.score}" in metrics)
    return task.in_words(metrics[f"{part}/{task.score}"])

"""Training steps, several to each of Lightning's."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import lightning
import torch
from torch import Tensor

from wellposed.errors import DivergedError
from wellposed.training.batches import Stretches


def check_finite(loss: Tensor, epoch: int) -> None:
    """Refuse to go on with a training whose loss is not finite.

    Args:
        loss: the mean of an epoch.
        epoch: counted from zero.

    Raises:
        DivergedError: it is not.
    """
    if not bool(torch.isfinite(loss)):
        raise DivergedError(
            f"training diverged: the loss of epoch {epoch + 1} is {float(loss)}; give a smaller learning_rate"
        )


class SteppingModule(lightning.LightningModule):
    """A module that is trained on `Stretches` by a one-cycle schedule, one step of its optimizer for each batch.

    Args:
        batches: of an epoch.
        epochs: of the whole training.
    """

    def __init__(self, batches: Stretches, epochs: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self._batches, self._epochs = batches, epochs

    @property
    def _steps(self) -> int:
        """Batches in the whole training, which are fewer where processes train together."""
        return self._epochs * self._batches.steps

    @abstractmethod
    def loss(self, batch: Any) -> Tensor:
        """What a step makes smaller, with its graph."""

    @abstractmethod
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer, whose learning rate is the peak of the schedule."""

    def finish_step(self) -> None:
        """What follows every step."""

    def training_step(self, stretch: list[Any], index: int) -> None:
        """A step for each batch of a stretch."""
        optimizer: Any = self.optimizers()
        schedule: Any = self.lr_schedulers()
        for batch in stretch:
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()
            schedule.step()
            self.finish_step()

    def share_of_training(self) -> float:
        """How much of the training is done, from 0 to 1."""
        schedule: Any = self.lr_schedulers()
        return float(schedule.last_epoch) / self._steps

    def configure_optimizers(self) -> Any:
        """The optimizer and its one-cycle schedule, which Lightning keeps in checkpoints."""
        optimizer = self.optimizer()
        peak = optimizer.param_groups[0]["lr"]
        return [optimizer], [torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=peak, total_steps=self._steps)]

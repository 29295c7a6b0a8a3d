"""Lightning's two pieces for a user's own model and data, to be used with any ``lightning.Trainer``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from wellposed.data import Task, TensorData
from wellposed.errors import check, check_class, checked_options
from wellposed.training.batches import suited
from wellposed.training.loaders import evaluation_loader, training_loader
from wellposed.training.losses import project
from wellposed.training.module import log_scores, over_processes
from wellposed.training.processes import weighed
from wellposed.training.stepping import check_finite

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


def check_steps(learning_rate: float, weight_decay: float) -> None:
    """Refuse unusable options of Adam."""
    check(0.0 < learning_rate < math.inf, "learning_rate", learning_rate, "must be positive and finite")
    check(0.0 <= weight_decay < math.inf, "weight_decay", weight_decay, "must be finite and not negative")


class TrainingModule(lightning.LightningModule):
    """Trains any model by Adam with a one-cycle schedule; logs ``train/loss``, and loss and score of validation and test parts.

    Args:
        model: maps inputs to outputs; parameters that are kept in a set by projection are projected after every step.
        task: what the outputs are compared with, and how: that of a data set.
        learning_rate: peak of the schedule.
        weight_decay: decoupled (AdamW).
        loss: maps model, inputs and targets to what a step makes smaller; None for the task's own loss.
    """

    @checked_options
    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        learning_rate: float = 3e-3,
        weight_decay: float = 0.0,
        loss: Loss | None = None,
    ) -> None:
        super().__init__()
        check_steps(learning_rate, weight_decay)
        check_class("model", model, nn.Module, "must be a torch.nn.Module")
        check_class("task", task, Task, "must be the task of a data set, such as data.task")
        self.model, self.task = model, task
        self._rates = learning_rate, weight_decay
        self._loss = loss or (lambda module, x, targets: task.loss(module(x), targets))

    def forward(self, x: Tensor) -> Tensor:
        """The model's outputs."""
        outputs: Tensor = self.model(x)
        return outputs

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """The loss of a batch of inputs and targets."""
        inputs, targets = batch
        loss = self._loss(self.model, inputs, targets)
        self.log("train/loss", loss, on_step=False, on_epoch=True, prog_bar=True, **over_processes(targets))
        return weighed(loss, len(targets))

    def on_train_batch_end(self, *batch: Any) -> None:
        """Project constraints that are kept by projection."""
        project(self.model)

    def on_train_epoch_end(self) -> None:
        """Refuse to go on where the loss is not finite."""
        check_finite(self.trainer.callback_metrics["train/loss"], self.current_epoch)

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Loss and score of a batch of the validation part."""
        log_scores(self, self.task, self.model(batch[0]), batch[1], "validation")

    def test_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Loss and score of a batch of the test part."""
        log_scores(self, self.task, self.model(batch[0]), batch[1], "test")

    def configure_optimizers(self) -> Any:
        """The optimizer, and its schedule over all steps of the trainer."""
        rate, decay = self._rates
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=rate, weight_decay=decay)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class TrainingData(lightning.LightningDataModule):
    """The parts of a data set as loaders of batches of inputs and targets.

    Args:
        data: the set, as of `wellposed.data.load_file` or `wellposed.data.from_arrays`.
        batch_size: samples per training step, of one process where several train together; None for 128, or a tenth of the
            training part where that is less.
        seed: of the order of the training samples, which differs from epoch to epoch.
    """

    @checked_options
    def __init__(self, data: TensorData, *, batch_size: int | None = None, seed: int = 0) -> None:
        super().__init__()
        check_class("data", data, TensorData, "must be a data set, as of wellposed.data.load_file or from_arrays")
        check(batch_size is None or batch_size >= 1, "batch_size", batch_size, "must be at least 1")
        self.data, self._seed = data, seed
        self._batch_size, _ = suited(len(data.train_y), batch_size, None)

    def train_dataloader(self) -> DataLoader[Any]:
        """The training part in a new order every epoch."""
        return training_loader(self.data, self._batch_size, self._seed)

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """The validation part, where there is one."""
        return [evaluation_loader(self.data, self._batch_size, part) for part in self.data.evaluated]

    def test_dataloader(self) -> DataLoader[Any]:
        """The test part."""
        return evaluation_loader(self.data, self._batch_size, "test")

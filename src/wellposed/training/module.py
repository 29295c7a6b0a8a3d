"""The Lightning module: the loss and the score of a task, Adam with a one-cycle schedule."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from torch import Tensor, nn

from wellposed.data import Task
from wellposed.errors import check
from wellposed.models.units import settle
from wellposed.training.batches import Stretches, epoch_seed
from wellposed.training.config import TrainConfig
from wellposed.training.losses import project, projected_parts
from wellposed.training.processes import place, total, weighed
from wellposed.training.stepping import SteppingModule, check_finite
from wellposed.training.worst_case import worst_logits


class TaskModule(SteppingModule):
    """Training and evaluation of one model.

    Args:
        model: maps inputs to outputs.
        config: the run's settings.
        batches: of an epoch.
        task: what the outputs are compared with, and how.
    """

    def __init__(self, model: nn.Module, config: TrainConfig, batches: Stretches, task: Task) -> None:
        super().__init__(batches, config.epochs)
        scaled = config.temperature != 1.0
        check(task.has_logits or not scaled, "temperature", config.temperature, "is a factor on logits of classes")
        self.model = model
        self.config = config
        self.task = task
        self._projected = list(projected_parts(model))
        self._losses: list[Tensor] = []
        self._samples = 0
        self._settled = False

    def loss(self, batch: tuple[Any, Tensor]) -> Tensor:
        """Loss of one batch of inputs (tensors, or torch_geometric batches) and targets."""
        inputs, labels = batch
        if self.config.augment:
            inputs = shift_and_mirror(inputs)
        logits = (
            worst_logits(self.model, inputs, labels, self._radius()) if self.config.box_radius else self.model(inputs)
        )
        loss = self.task.loss(self.config.temperature * self._outputs(logits), labels)
        self._losses.append(len(labels) * loss.detach())
        self._samples += len(labels)
        loss = weighed(loss, len(labels))
        if self.config.lipschitz_penalty > 0.0:
            constant = self.config.family.constant(self.model, self.config.penalty_norm)
            loss = loss + self.config.lipschitz_penalty * constant
        return loss

    def _radius(self) -> float:
        """Of the boxes, which grow from points to their full size over the first half of training."""
        return min(2.0 * self.share_of_training(), 1.0) * self.config.box_radius

    def on_train_epoch_start(self) -> None:
        """Begin every epoch with draws that depend on seed, epoch and process alone, so that a resumed run sees the same ones."""
        rank, _ = place()
        torch.manual_seed(epoch_seed(epoch_seed(rank, self.config.seed), self.current_epoch))

    def finish_step(self) -> None:
        """Project constraints that are kept by projection."""
        project(self._projected)

    def training_step(self, stretch: list[Any], index: int) -> None:
        """A step for each batch of a stretch; the last one of an epoch logs the mean loss of the epoch's samples."""
        super().training_step(stretch, index)
        if self.trainer.is_last_batch:
            losses = torch.stack(self._losses).sum()
            mean = total(losses) / total(torch.full_like(losses, self._samples))
            check_finite(mean, self.current_epoch)
            self.log("train/loss", mean, on_step=False, on_epoch=True, prog_bar=True, batch_size=1)
            self._losses, self._samples = [], 0

    def validation_step(self, batch: tuple[Any, Tensor], index: int, dataloader_idx: int = 0) -> None:
        """Loss and score on the validation samples and, for graphs, on those to test on."""
        self._evaluate(batch, ("validation", "test")[dataloader_idx])

    def test_step(self, batch: tuple[Any, Tensor], index: int) -> None:
        """Loss and score on the test set."""
        self._evaluate(batch, "test")

    def _evaluate(self, batch: tuple[Any, Tensor], part: str) -> None:
        inputs, labels = batch
        log_scores(self, self.task, self._outputs(self.model(inputs)), labels, part, self.config.temperature)

    def settle(self) -> None:
        """Let the trained model itself give outputs in the units of the targets."""
        settle(self.model, self.task)
        self._settled = True

    def _outputs(self, raw: Tensor) -> Tensor:
        return raw if self._settled else self.task.in_units(raw)

    def optimizer(self) -> torch.optim.Optimizer:
        """AdamW: Adam, without weight decay."""
        config = self.config
        return torch.optim.AdamW(self.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)


def log_scores(
    module: lightning.LightningModule, task: Task, outputs: Tensor, targets: Tensor, part: str, temperature: float = 1.0
) -> None:
    """Log loss and score of a batch, as ``PART/loss`` and by the name of the score.

    Args:
        module: logs.
        task: what the outputs are compared with, and how.
        outputs: of the network, shape (batch, outputs).
        targets: what the data set gives.
        part: of the data.
        temperature: factor on logits in the loss.
    """
    found = {"loss": task.loss(temperature * outputs, targets), task.score: task.score_of(outputs, targets)}
    for name, value in found.items():
        shown = name == task.score and part == "validation"
        module.log(f"{part}/{name}", value, prog_bar=shown, add_dataloader_idx=False, **over_processes(targets))


def over_processes(targets: Tensor) -> dict[str, Any]:
    """Options by which Lightning logs the mean over the samples of all processes.

    Args:
        targets: of the samples that a value is the mean of.
    """
    return {"batch_size": float(len(targets)), "sync_dist": True}  # of whole numbers, Lightning cuts means off


def shift_and_mirror(images: Tensor, reach: int = 4) -> Tensor:
    """Every image shifted by up to ``reach`` pixels in both directions, zeros coming in, and mirrored or not.

    Args:
        images: shape (batch, channels, height, width).
        reach: largest shift, in pixels.
    """
    batch, _, height, width = images.shape
    device = images.device
    down, right = (torch.randint(-reach, reach + 1, (batch, 1), device=device) for _ in range(2))
    rows = torch.arange(height, device=device) + down
    columns = torch.arange(width, device=device) + right
    columns = torch.where(torch.rand(batch, 1, device=device) < 0.5, columns, columns.flip(1))
    samples = torch.arange(batch, device=device)[:, None, None]
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    picked = images[samples, :, rows[:, :, None], columns[:, None, :]]  # (batch, height, width, channels)
    return (picked * inside[..., None]).permute(0, 3, 1, 2)

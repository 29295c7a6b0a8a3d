"""The Lightning module: cross-entropy, Adam with a one-cycle schedule, accuracy."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from torch import Tensor, nn

from wellposed.constraints.base import Projected
from wellposed.training.config import TrainConfig
from wellposed.training.trainer import one_cycle
from wellposed.training.worst_case import worst_logits


class ClassifierModule(lightning.LightningModule):
    """Training and validation of one classifier.

    Args:
        model: maps images to logits.
        config: the run's settings.
    """

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config

    def training_step(self, batch: tuple[Any, Tensor], index: int) -> Tensor:
        """Loss of one batch of inputs (images, or torch_geometric batches) and labels."""
        inputs, labels = batch
        if self.config.augment:
            inputs = shift_and_mirror(inputs)
        logits = (
            worst_logits(self.model, inputs, labels, self._radius()) if self.config.box_radius else self.model(inputs)
        )
        loss = nn.functional.cross_entropy(self.config.temperature * logits, labels)
        self.log("train/loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(labels))
        if self.config.lipschitz_penalty > 0.0:
            constant = self.config.family.constant(self.model, self.config.penalty_norm)
            loss = loss + self.config.lipschitz_penalty * constant
        return loss

    def _radius(self) -> float:
        """Of the boxes, which grow from points to their full size over the first half of training."""
        share = 2.0 * self.trainer.global_step / float(self.trainer.estimated_stepping_batches)
        return min(share, 1.0) * self.config.box_radius

    def on_train_batch_end(self, *_: Any) -> None:
        """Project constraints that are kept by projection."""
        for part in self.model.modules():
            if isinstance(part, Projected):
                part.project()

    def validation_step(self, batch: tuple[Any, Tensor], index: int, dataloader_idx: int = 0) -> None:
        """Loss and accuracy on held-out data: the test set and, where there is one, the validation set."""
        inputs, labels = batch
        logits = self.model(inputs)
        part = ("test", "validation")[dataloader_idx]
        found = {"loss": nn.functional.cross_entropy(self.config.temperature * logits, labels)}
        found["accuracy"] = (logits.argmax(1) == labels).float().mean()
        for name, value in found.items():
            shown = name == "accuracy" and part == "test"
            self.log(f"{part}/{name}", value, prog_bar=shown, batch_size=len(labels), add_dataloader_idx=False)

    def configure_optimizers(self) -> Any:
        """AdamW (Adam, without weight decay) and its one-cycle schedule."""
        config = self.config
        optimizer = torch.optim.AdamW(self.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        return one_cycle(self.trainer, optimizer, config.learning_rate)


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

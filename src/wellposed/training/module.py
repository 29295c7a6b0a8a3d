"""The Lightning module: cross-entropy, Adam with a one-cycle schedule, accuracy."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from torch import Tensor, nn

from wellposed.constraints.nonnegative import Nonnegative
from wellposed.training.config import TrainConfig


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

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """Loss of one batch."""
        images, labels = batch
        loss = nn.functional.cross_entropy(self.config.temperature * self.model(images), labels)
        self.log("train/loss", loss, on_step=False, on_epoch=True, prog_bar=True)
        if self.config.lipschitz_penalty > 0.0:
            loss = loss + self.config.lipschitz_penalty * self._norm_product()
        return loss

    def _norm_product(self) -> Tensor:
        """Product of the spectral norms of the linear maps into and out of the state, which certificates multiply."""
        product = torch.ones((), device=self.device)
        for part in self.model.modules():
            if isinstance(part, nn.Linear):
                product = product * torch.linalg.matrix_norm(part.weight, 2)
        return product

    def on_train_batch_end(self, *_: Any) -> None:
        """Project constraints that are kept by projection."""
        for part in self.model.modules():
            if isinstance(part, Nonnegative):
                part.project()

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Loss and accuracy on held-out data."""
        images, labels = batch
        logits = self.model(images)
        self.log("test/loss", nn.functional.cross_entropy(self.config.temperature * logits, labels))
        self.log("test/accuracy", (logits.argmax(1) == labels).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> Any:
        """AdamW (Adam, without weight decay) and its one-cycle schedule."""
        config = self.config
        optimizer = torch.optim.AdamW(self.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=config.learning_rate, total_steps=int(self.trainer.estimated_stepping_batches)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

"""The epoch whose weights a run keeps: chosen on validation samples, or the last."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from wellposed.data import Task
from wellposed.errors import DivergedError


class BestEpoch(Callback):
    """The epoch with the best score on validation samples, the latest of equally good ones; without a choice, the last epoch.

    Lightning keeps its state in checkpoints, so that a resumed run chooses among all epochs.

    Args:
        model: what is trained.
        choose: whether there is a choice.
        task: what the score is.

    Attributes:
        epoch: counted from zero.
        metrics: of that epoch.
    """

    def __init__(self, model: nn.Module, *, choose: bool, task: Task) -> None:
        self._model, self._choose, self._task = model, choose, task
        self.epoch = 0
        self.metrics: dict[str, float] = {}
        self._weights: dict[str, Tensor] = {}

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Note this epoch, unless an earlier one was better."""
        found = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if self._choose:
            score = f"validation/{self._task.score}"
            if self.metrics and self._task.is_worse(found[score], self.metrics[score]):
                return
            self._weights = {name: value.detach().clone() for name, value in self._model.state_dict().items()}
        self.epoch, self.metrics = trainer.current_epoch, found

    def restore(self) -> None:
        """Give the model the weights of that epoch.

        Raises:
            DivergedError: they are not finite.
        """
        if self._choose:
            self._model.load_state_dict(self._weights)
        for name, part in self._model.named_parameters():
            if not bool(torch.isfinite(part).all()):
                raise DivergedError(
                    f"training diverged: {name} has NaN or infinite entries after epoch {self.epoch + 1}; give a smaller "
                    "learning_rate"
                )

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"epoch": self.epoch, "metrics": self.metrics, "weights": self._weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What `state_dict` gave."""
        self.epoch, self.metrics, self._weights = (state_dict[name] for name in ("epoch", "metrics", "weights"))

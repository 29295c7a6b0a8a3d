"""A callback that measures a network at the end of every epoch of a training run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from wellposed.network.modes import evaluating
from wellposed.training.files import write_json


class EveryEpoch(Callback):
    """Measures a network at the end of every epoch, and keeps the results in a file and in Lightning's checkpoints.

    Args:
        path: the file.
        measure: called with the network in eval mode and its device; names of numbers, and these.

    Attributes:
        rows: what ``measure`` gave, one for each epoch.
    """

    def __init__(self, path: Path, measure: Callable[[nn.Module, torch.device], dict[str, float]]) -> None:
        self._path, self._measure = path, measure
        self.rows: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Measure the network as it evaluates, and let it train on."""
        with evaluating(pl_module.model) as model:
            self.rows.append(self._measure(model, pl_module.device))
        if trainer.is_global_zero:
            write_json(self._path, {"epochs": self.rows}, indent=1)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What `state_dict` gave."""
        self.rows = list(state_dict["rows"])

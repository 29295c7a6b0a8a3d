"""Progress of training: a bar for a person, a line every few seconds for a log."""

from __future__ import annotations

import sys
import time
from typing import Any

from lightning.pytorch.callbacks import Callback, TQDMProgressBar

_SECONDS_BETWEEN_LINES = 5.0


class _Lines(Callback):
    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.last = time.monotonic()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if time.monotonic() - self.last < _SECONDS_BETWEEN_LINES:
            return
        self.last = time.monotonic()
        shown = ", ".join(f"{name} {float(value):.4g}" for name, value in sorted(trainer.callback_metrics.items()))
        print(f"epoch {trainer.current_epoch + 1}/{self.epochs}: {shown}", file=sys.stderr, flush=True)


def progress_callback(epochs: int) -> Callback:
    """The callback that suits standard error."""
    return TQDMProgressBar(refresh_rate=20) if sys.stderr.isatty() else _Lines(epochs)

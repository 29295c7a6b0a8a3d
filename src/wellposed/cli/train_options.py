"""The options of ``wellposed train``, which are those of every family and so need torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from wellposed.cli.options import Common
from wellposed.training.config import TrainConfig


@dataclass(frozen=True)
class Train(Common):
    """Train a classifier into a run folder."""

    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)
    out: Path | None = None
    """The run folder; default: runs/FAMILY-DATA."""
    resume: bool = False
    """Go on from the last checkpoint in the folder."""
    certify: bool = False
    """Go on with wellposed certify, whose result is then what is printed last, and the only one as JSON."""
    accelerator: str = "auto"
    """Lightning accelerator: cpu, gpu, auto."""
    devices: str = "1"
    """Lightning devices: a number, or auto. Each takes a batch of --batch-size of its own."""
    strategy: str = "auto"
    """Lightning strategy: auto, ddp, fsdp, …"""
    logger: Literal["csv", "tensorboard"] = "csv"
    """tensorboard: also to tensorboard/ in the run folder; the metrics are in metrics.csv always."""

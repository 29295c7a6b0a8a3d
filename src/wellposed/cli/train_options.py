"""The options of ``wellposed train``, which are those of every family and so need torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

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
    accelerator: str = "auto"
    """Lightning accelerator: cpu, gpu, auto."""
    devices: str = "1"
    """Lightning devices: a number, or auto."""
    strategy: str = "auto"
    """Lightning strategy: auto, ddp, fsdp, …"""

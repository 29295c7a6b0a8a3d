"""``wellposed train``: a run folder with a trained network."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from wellposed.cli.options import Common, parse, show
from wellposed.data.tasks import in_words
from wellposed.errors import InputError, choices
from wellposed.models.families import FAMILIES
from wellposed.training.about import about_run
from wellposed.training.config import TrainConfig, presets, read_config


@dataclass(frozen=True)
class Train(Common):
    """Train a model into a run folder."""

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
    logger: Literal["csv", "tensorboard"] = "csv"
    """tensorboard: also to tensorboard/ in the run folder; the metrics are in metrics.csv always."""


def train(arguments: list[str]) -> int:
    """``wellposed train FAMILY``."""
    from wellposed.training.run import train as train_run

    known = ", ".join(FAMILIES)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(
            f"usage: wellposed train FAMILY [--preset NAME] [OPTIONS]\n\nfamilies: {known}\npresets:  {', '.join(presets())}\n\n"
            f"wellposed train {next(iter(FAMILIES))} --help lists all options; a preset's values are their defaults."
        )
        return 0 if arguments else 2
    family, *rest = arguments
    choices("family", family, tuple(FAMILIES))
    config, rest = _with_preset(family, rest)
    if "--resume" in rest and "--out" in rest[:-1]:
        saved = Path(rest[rest.index("--out") + 1]) / "config.toml"
        config = read_config(saved) if saved.exists() else config
    options = parse(Train, rest, f"wellposed train {family} [--preset NAME]", Train(config=config))
    out = Path("runs") / f"{family}-{Path(options.config.data).stem}" if options.out is None else options.out
    start = time.time()
    try:
        metrics = train_run(
            options.config, out, data_root=options.data_root, resume=options.resume, progress=not options.json,
            accelerator=options.accelerator, strategy=options.strategy, logger=options.logger,
            devices=int(options.devices) if options.devices.isdigit() else options.devices,
        )  # fmt: skip
    except KeyboardInterrupt:
        print(f"wellposed: interrupted; continue with the same command and --resume --out {out}", file=sys.stderr)
        raise
    result = {"run": str(out), "seconds": round(time.time() - start, 1), **metrics}
    text = f"{out}: test {in_words(metrics, 'test')} after {result['seconds']} s"
    if options.config.validation:
        text += f", of epoch {metrics['epoch']:g}, which had the best validation {in_words(metrics, 'validation')}"
    if options.config.is_own:
        text += "".join(f"; {remark}" for remark in about_run(out).remarks)
    return show(result, text, options)


def _with_preset(family: str, arguments: list[str]) -> tuple[TrainConfig, list[str]]:
    if "--preset" not in arguments:
        return TrainConfig(family=FAMILIES[family]()), arguments
    place = arguments.index("--preset")
    name = arguments[place + 1] if place + 1 < len(arguments) else ""
    known = presets()
    choices("preset", name, tuple(known))
    if known[name].family.name != family:
        raise InputError(f"preset={name!r}: belongs to the family {known[name].family.name!r}, not {family!r}")
    return known[name], arguments[:place] + arguments[place + 2 :]

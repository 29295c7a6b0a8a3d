"""Every command by its name, but for `wellposed verify`, which needs nothing that these need."""

from __future__ import annotations

from collections.abc import Callable

from wellposed.cli.attack import attack
from wellposed.cli.bench import bench
from wellposed.cli.certify import certify
from wellposed.cli.export import export
from wellposed.cli.imports import import_weights
from wellposed.cli.reproduce import reproduce
from wellposed.cli.tables import compare, report
from wellposed.cli.train import train

COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": train, "certify": certify, "attack": attack, "compare": compare, "report": report, "reproduce": reproduce,
    "export": export, "import": import_weights, "bench": bench,
}  # fmt: skip

"""Every command by its name."""

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


def verify(arguments: list[str]) -> int:
    """``wellposed verify [--exact] CERTIFICATE MODEL.onnx``."""
    from wellposed import checker  # which takes a quarter of a second

    return checker.main(arguments)


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": train, "certify": certify, "attack": attack, "compare": compare, "report": report, "reproduce": reproduce,
    "export": export, "verify": verify, "import": import_weights, "bench": bench,
}  # fmt: skip

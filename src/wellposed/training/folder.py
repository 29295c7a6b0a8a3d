"""A run's folder.

``config.toml`` (resolved settings), ``metrics.csv``, ``checkpoints/last.ckpt`` (Lightning's, to resume from),
``weights.safetensors`` (the result) and whatever certify, attack and report add.
"""

from __future__ import annotations

import csv
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wellposed.errors import CheckpointError

_RESULTS = (
    "checkpoints/last.ckpt", "weights.safetensors", "environment.json", "metrics.csv", "metrics-*.csv", "model.onnx",
    "certificate*",
    "certified.json", "certified-*.json", "attacked.json", "attacked-*.json", "verified-*.json", "verified-*.partial.jsonl",
    "adversarial.json", "slope.json", "slope-*.json",
    "report.html", "data.json",
)  # fmt: skip


@dataclass(frozen=True)
class RunFolder:
    """Names of the files of a run."""

    path: Path

    @property
    def config(self) -> Path:
        """Resolved settings, TOML."""
        return self.path / "config.toml"

    @property
    def data(self) -> Path:
        """What is to be said of a user's own data, JSON."""
        return self.path / "data.json"

    @property
    def weights(self) -> Path:
        """Final weights, safetensors."""
        return self.path / "weights.safetensors"

    @property
    def metrics(self) -> Path:
        """Metrics per epoch, CSV."""
        return self.path / "metrics.csv"

    @property
    def checkpoint(self) -> Path:
        """The state to resume from."""
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def environment(self) -> Path:
        """Versions, machine and duration, JSON."""
        return self.path / "environment.json"

    @property
    def model(self) -> Path:
        """The network as one ONNX file."""
        return self.path / "model.onnx"

    @property
    def certificate(self) -> Path:
        """The certificate of the ONNX file, JSON."""
        return self.path / "certificate.json"

    @property
    def certified(self) -> Path:
        """Certified accuracy per radius, JSON."""
        return self.path / "certified.json"

    @property
    def slope(self) -> Path:
        """Error and certified slope of a network that estimates numbers, JSON."""
        return self.path / "slope.json"

    @property
    def attacked(self) -> Path:
        """Accuracy under attack per radius, JSON."""
        return self.path / "attacked.json"

    @property
    def adversarial(self) -> Path:
        """The nearest adversarial examples, JSON."""
        return self.path / "adversarial.json"

    def create(self) -> None:
        """Make the folder and make sure that it can be written to."""
        try:
            self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise unwritable(self.path, error) from error

    def clear_results(self) -> None:
        """Remove what an earlier training run left: it is about other weights."""
        for path in [file for pattern in _RESULTS for file in self.path.glob(pattern)]:
            path.unlink(missing_ok=True)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Metrics per epoch of a run, in order."""
    merged: dict[int, dict[str, float]] = {}
    for file in (*sorted(path.glob("metrics-*.csv")), RunFolder(path).metrics):
        if not file.exists():
            continue
        with file.open(encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream):
                entry = merged.setdefault(int(row["epoch"]), {})
                entry.update({name: float(value) for name, value in row.items() if value})
    return [merged[epoch] for epoch in sorted(merged)]


def make_folder(path: Path) -> None:
    """Make a folder and those that it is in.

    Raises:
        CheckpointError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error


def write_text(path: Path, content: str) -> None:
    """Write a file of results.

    Raises:
        CheckpointError: it cannot be written.
    """
    try:
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise unwritable(path, error) from error


def write_json(path: Path, content: Any, indent: int | None = None) -> None:
    """Write a file of results as JSON, on one line or with an indentation.

    Raises:
        CheckpointError: it cannot be written.
    """
    write_text(path, json.dumps(content, indent=indent))


def write_whole(path: Path, content: Any) -> None:
    """Write a JSON file whole or not at all, whoever reads it meanwhile and whenever the program is stopped.

    Raises:
        CheckpointError: it cannot be written.
    """
    unfinished = path.with_suffix(f".{os.getpid()}")
    write_json(unfinished, content, indent=1)
    unfinished.replace(path)


def unwritable(path: Path, error: OSError) -> CheckpointError:
    """The error for a file or folder that cannot be written."""
    return CheckpointError(
        f"{path}: cannot be written ({error.strerror or error}); make room there, or choose another --out"
    )

"""A run's folder.

``config.toml`` (resolved settings), ``metrics.csv``, ``checkpoints/last.ckpt`` (Lightning's, to resume from),
``weights.safetensors`` (the result) and whatever certify, attack and report add.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wellposed.errors import CheckpointError
from wellposed.training.files import file_digest, read_json, unwritable

_RESULTS = (
    "checkpoints/last.ckpt", "weights.safetensors", "environment.json", "metrics.csv", "metrics-*.csv", "model.onnx",
    "certificate*",
    "certified.json", "certified-*.json", "attacked.json", "attacked-*.json", "verified-*.json", "verified-*.partial.jsonl",
    "adversarial.json", "slope.json", "slope-*.json",
    "report.html", "data.json",
)  # fmt: skip
_ENVIRONMENT = {
    "wellposed", "commit", "date", "command", "torch", "python", "machine", "threads", "seconds", "metrics", "files", "imported",
    "layout",
}  # fmt: skip


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
        """Versions, commit, date, command, machine and duration, JSON."""
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

    @property
    def report(self) -> Path:
        """The page about the run, HTML."""
        return self.path / "report.html"

    def create(self) -> None:
        """Make the folder and make sure that it can be written to."""
        try:
            self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise unwritable(self.path, error) from error

    @property
    def is_finished(self) -> bool:
        """Whether training ended."""
        return self.environment.exists() and self.weights.exists()  # the former is written last

    def clear_results(self) -> None:
        """Remove what an earlier training run left: it is about other weights."""
        for path in [file for pattern in _RESULTS for file in self.path.glob(pattern)]:
            path.unlink(missing_ok=True)


def check_is_run(path: Path) -> None:
    """Refuse a folder that no training wrote.

    Raises:
        CheckpointError: it is missing, or has no settings.
    """
    if not RunFolder(path).config.exists():
        why = "no config.toml" if path.is_dir() else "there is no such folder"
        raise CheckpointError(f"{path}: not a run folder ({why}); give the --out of `wellposed train`")


def read_environment(path: Path) -> dict[str, Any]:
    """Versions, commit, date, command, machine, duration and final metrics of a finished run, and the digests of its ``files``.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    folder = RunFolder(path)
    content = read_json(folder.environment, f"finish training with `wellposed train` and `--out {path}`")
    if (
        not isinstance(content, dict)
        or set(content) - _ENVIRONMENT
        or not isinstance(content.get("seconds", 0.0), int | float)
        or not isinstance(content.get("files", {}), dict)
    ):
        raise CheckpointError(f"{folder.environment}: corrupt (not what a run writes); train again")
    return content


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Metrics per epoch of a run, in order.

    Raises:
        CheckpointError: a file is damaged.
    """
    folder = RunFolder(path)
    known = read_environment(path).get("files", {}) if folder.environment.exists() else {}
    merged: dict[int, dict[str, float]] = {}
    for file in (*sorted(path.glob("metrics-*.csv")), folder.metrics):
        if not file.exists():
            if file.name in known:
                raise CheckpointError(f"{file}: missing; train again")
            continue
        if known.get(file.name, file_digest(file)) != file_digest(file):
            raise CheckpointError(f"{file}: corrupt (its content is not that of its SHA-256); train again")
        try:
            with file.open(encoding="utf-8", newline="") as stream:
                for row in csv.DictReader(stream):
                    entry = merged.setdefault(int(row["epoch"]), {})
                    entry.update({name: float(value) for name, value in row.items() if value})
        except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
            raise CheckpointError(f"{file}: corrupt ({error}); train again") from error
    return [merged[epoch] for epoch in sorted(merged)]

"""Where a run and a page about it come from: versions, commits, dates, commands and digests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from wellposed.data import Data
from wellposed.experiments.verification import data_digest
from wellposed.training.about import about_run
from wellposed.training.config import TrainConfig
from wellposed.training.environment import environment
from wellposed.training.files import file_digest
from wellposed.training.folder import RunFolder, read_environment

Rows = list[tuple[str, str]]


def provenance(run: Path, config: TrainConfig, data: Data, model: nn.Module, command: Sequence[str]) -> Rows:
    """What the network of a page is, where its data come from, and what made both.

    Args:
        run: the run folder.
        config: its settings.
        data: its data.
        model: its network.
        command: the words of the command line that made the page; none where a program did.
    """
    parameters = sum(part.numel() for part in model.parameters())
    return [
        ("network", f"family {config.family.name}, {parameters} trained numbers"),
        ("weights", f"{RunFolder(run).weights.name}, SHA-256 {file_digest(RunFolder(run).weights)}"),
        ("data", _data(run, config, data)),
        ("training", trained(run)),
        ("this page", page_made(command)),
    ]


def _data(run: Path, config: TrainConfig, data: Data) -> str:
    own = about_run(run).data_sha256
    count = len(data.labels_of("test"))
    if own:
        return f"{config.data}, {count} test {data.inputs}, SHA-256 {own}"
    return f"{config.data}, {count} test {data.inputs}, whose numbers and labels have the SHA-256 {_test_digest(data)}"


def _test_digest(data: Data) -> str:
    if data.inputs == "graphs":
        graphs = data.as_graphs("data")
        batch, labels = graphs.batch(graphs.test)
        return data_digest(batch.x, batch.edge_index, batch.batch, labels)
    tensors = data.as_tensors("data")
    return data_digest(tensors.test_x, tensors.test_y)


def trained(run: Path) -> str:
    """What a run notes of its training, in words."""
    known = read_environment(run) if RunFolder(run).environment.exists() else {}
    if "imported" in known:
        return f"not by wellposed: read from {known['imported']}, laid out as {known['layout']}"
    spent = [f"took {known['seconds']} s"] if "seconds" in known else []
    return ", ".join([*_made(known), *spent]) or "not noted"


def page_made(command: Sequence[str]) -> str:
    """What makes a page now, in words."""
    return ", ".join(_made({**(found := environment(list(command))), "wellposed": found["versions"].get("wellposed")}))


def _made(known: dict[str, Any]) -> list[str]:
    """Versions, commit, date and command, as far as they are known."""
    parts = [f"wellposed {known['wellposed']}"] if known.get("wellposed") else []
    parts += [f"commit {known['commit']}"] if known.get("commit") else []
    parts += [f"on {known['date']}"] if known.get("date") else []
    parts += [f"by {known['command']}"] if known.get("command") else []
    return parts + [f"{name} {known[name]}" for name in ("torch", "python", "machine", "threads") if known.get(name)]

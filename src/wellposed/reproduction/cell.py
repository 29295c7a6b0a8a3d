"""One independent piece of a recipe's work, and the record of what it measured."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from wellposed.errors import CheckpointError, check_fields
from wellposed.training.environment import environment
from wellposed.training.files import make_folder, read_json, write_json


@dataclass(frozen=True)
class Workspace:
    """Where the work is done.

    Attributes:
        out: folder of trained networks and records; what is finished there is not done again.
        data_root: see `wellposed.data.load_images`.
    """

    out: Path
    data_root: Path | None


@dataclass(frozen=True)
class Cell:
    """A measurement: a function, and the settings that decide its outcome.

    Attributes:
        measure: called with the workspace and the settings; a function of a module, whose result JSON can hold.
        settings: its keyword arguments, which JSON can hold.
    """

    measure: Callable[..., dict[str, Any]]
    settings: Mapping[str, Any]

    @property
    def task(self) -> str:
        """The name of what is measured."""
        return self.measure.__name__

    @property
    def name(self) -> str:
        """A name of the record's file: the task and a digest of the settings."""
        return f"{self.task}-{digest_of([self.measure.__module__, self.task, dict(self.settings)])}"


@dataclass(frozen=True)
class Record:
    """What a cell measured, and under which circumstances.

    Attributes:
        task: name of the measurement.
        settings: what decided it.
        measured: the result.
        circumstances: versions, commit, date, threads, CPU hours, seconds and machine.
    """

    task: str
    settings: dict[str, Any]
    measured: dict[str, Any]
    circumstances: dict[str, Any] = field(default_factory=dict)

    def is_of(self, measure: Callable[..., dict[str, Any]]) -> bool:
        """Whether it is a record of a measurement."""
        return self.task == measure.__name__

    @property
    def cpu_hours(self) -> float:
        """CPU time that the measurement took, in hours."""
        return float(self.circumstances["cpu_hours"])


def digest_of(content: Any) -> str:
    """Sixteen hexadecimal digits that name what JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def record_of(workspace: Workspace, cell: Cell) -> Record:
    """Measure a cell, or read what an earlier call measured in the same workspace.

    Raises:
        CheckpointError: the record cannot be written, or is of another measurement.
    """
    path = record_path(workspace, cell)
    found = read_record(path)
    if found is not None:
        if digest_of([found.task, found.settings]) != digest_of([cell.task, dict(cell.settings)]):
            raise CheckpointError(f"{path}: of another measurement than its name says; delete it to measure again")
        return found
    make_folder(path.parent)
    begun, processor = time.monotonic(), _cpu_seconds()
    measured = cell.measure(workspace, **cell.settings)
    spent = {"cpu_hours": round((_cpu_seconds() - processor) / 3600, 5), "seconds": round(time.monotonic() - begun, 2)}
    record = Record(cell.task, dict(cell.settings), measured, {**environment([cell.task]), **spent})
    write_json(path, asdict(record), indent=1)
    return record


def record_path(workspace: Workspace, cell: Cell) -> Path:
    """The file of a cell's record."""
    return workspace.out / "cells" / f"{cell.name}.json"


def read_record(path: Path) -> Record | None:
    """The record in a file; None where there is none.

    Raises:
        CheckpointError: it is damaged.
    """
    if not path.exists():
        return None
    try:
        record = Record(**read_json(path, "delete it and measure"))
        check_fields(record)
        return record
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); delete it to measure again") from error


def read_result(path: Path) -> list[Record]:
    """The records in a file of several: of a recipe's result, or of what was measured for unfinished ones.

    Raises:
        CheckpointError: the file is damaged.
    """
    try:
        records = [Record(**entry) for entry in read_json(path, "run its recipe")["records"]]
        for record in records:
            check_fields(record, finite=False)
        return records
    except (TypeError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); run its recipe again") from error


def _cpu_seconds() -> float:
    """CPU time of this process and its finished children, so that training in other processes counts."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system

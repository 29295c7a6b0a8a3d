"""One independent piece of a recipe's work, and the record of what it measured."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from wellposed.errors import CertificateError, CheckpointError, InputError, WellposedError, check, check_fields
from wellposed.training.environment import environment
from wellposed.training.files import make_folder, read_json, write_json

CIRCUMSTANCES = ("cpu_hours", "date", "commit", "threads", "processor")  # that pages tell
# What unusable values raise where something is made of them.
_OF_VALUES = TypeError, ValueError, LookupError, AttributeError, ArithmeticError, AssertionError, RuntimeError


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


class Entries(dict[str, Any]):
    """What a file says under names; asked for one that it lacks, it tells which file to mend.

    Attributes:
        place: the file, and where in it; empty of what no file says.
        mend: what to do about it.
    """

    place = mend = ""

    def __missing__(self, name: str) -> Any:
        if not self.place:
            raise KeyError(name)
        raise CheckpointError(f"{self.place} lacks {name!r}; {self.mend}")


def read_record(path: Path) -> Record | None:
    """The record in a file; None where there is none.

    Raises:
        CheckpointError: it is damaged.
    """
    if not path.exists():
        return None
    return _record(
        read_json(path, "delete it and measure"), f"{path}: damaged, the record", "delete it to measure again"
    )


def read_result(path: Path) -> list[Record]:
    """The records in a file of several: of a recipe's result, or of what was measured for unfinished ones.

    Raises:
        CheckpointError: the file is damaged.
    """
    place, mend = f"{path}: damaged,", "run its recipe again"
    records = _entries(read_json(path, "run its recipe"), f"{place} the result", mend)["records"]
    if not isinstance(records, list):
        raise CheckpointError(f"{place} its records are no list; {mend}")
    return [_record(content, f"{place} record {number}", mend) for number, content in enumerate(records, 1)]


@contextmanager
def blaming(path: Path, mend: str) -> Iterator[None]:
    """Name the file whose records something cannot be made of.

    Args:
        path: the file.
        mend: what to do about it.

    Raises:
        CheckpointError: values are of the wrong kind, too few or too many.
        CertificateError: they contradict each other.
    """
    try:
        yield
    except CertificateError as error:
        raise CertificateError(f"{path}: {error}") from error
    except KeyError as error:
        raise CheckpointError(f"{path}: damaged, a record lacks {error}; {mend}") from error
    except InputError as error:
        raise CheckpointError(f"{path}: damaged, a record has unusable values ({error}); {mend}") from error
    except WellposedError:
        raise
    except _OF_VALUES as error:
        raise CheckpointError(f"{path}: damaged, a record has unusable values ({error}); {mend}") from error


def _record(content: Any, place: str, mend: str) -> Record:
    """The record that entries of a file are.

    Raises:
        CheckpointError: something is missing, unknown or of the wrong type.
    """
    entries = _entries(content, place, mend)
    names = [field.name for field in fields(Record)]
    try:
        record = Record(*(entries[name] for name in names))
        check_fields(record)
        check(set(entries) == set(names), "entries", list(entries), f"must be {', '.join(names)}")
        hours, *_ = (record.circumstances[name] for name in CIRCUMSTANCES)
        check(isinstance(hours, int | float), CIRCUMSTANCES[0], hours, "must be a number")
    except InputError as error:
        raise CheckpointError(f"{place} has unusable values ({error}); {mend}") from error
    return record


def _entries(content: Any, place: str, mend: str) -> Any:
    """What JSON gave, whose dictionaries tell where names are missing.

    Raises:
        CheckpointError: it is no dictionary.
    """
    if not isinstance(content, dict):
        raise CheckpointError(f"{place} is no dictionary of entries; {mend}")
    found = Entries({name: _within(value, f"{place}, {name}", mend) for name, value in content.items()})
    found.place, found.mend = place, mend
    return found


def _within(content: Any, place: str, mend: str) -> Any:
    if isinstance(content, list):
        return [_within(entry, f"{place}, {number}", mend) for number, entry in enumerate(content, 1)]
    return _entries(content, place, mend) if isinstance(content, dict) else content


def _cpu_seconds() -> float:
    """CPU time of this process and its finished children, so that training in other processes counts."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system

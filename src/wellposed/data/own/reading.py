"""Users' own files: archives of arrays, tables in CSV, folders of images."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from wellposed.data.base import Source, TensorData
from wellposed.data.files import readable
from wellposed.data.own.arrays import Samples
from wellposed.data.own.assembly import assembled, samples_of, tensors_of
from wellposed.data.own.pictures import read_pictures
from wellposed.data.own.table import read_table
from wellposed.errors import DataError, check, checked_options, choices
from wellposed.names import TASKS

_READ = 1 << 20  # bytes at a time


@dataclass(frozen=True)
class Evaluation:
    """Samples to evaluate a finished network on.

    Attributes:
        x: inputs, shape (samples, ...).
        y: classes, shape (samples,).
        remarks: what a reader must know of them, in words.
    """

    x: Tensor
    y: Tensor
    remarks: tuple[str, ...] = ()


@checked_options
def load_file(path: str | Path, *, task: str = "classification", target: str = "") -> TensorData:
    """A data set of a user's own file.

    Args:
        path: of an archive with the suffix ``.npz``, see `from_arrays`; of a table with the suffix ``.csv``, see `read_table`; or
            of a folder of images, see `read_pictures`.
        task: ``"classification"`` or ``"regression"``.
        target: the column of a table that is to be told from the others; empty for other files.

    Raises:
        DataError: it cannot be read, or its content is unusable; the message names what.
        InputError: an argument does not belong to this kind of file.
    """
    path = Path(path)
    parts, names = _parts(path, task, target, ())
    source = Source(str(path), source_digest(path), names, columns=parts["train"].columns if "train" in parts else ())
    return assembled(parts, name=path.name, task=task, source=source)


def load_to_evaluate(
    path: Path, *, classes: int | None, target: str = "", names: Sequence[str] = (), columns: Sequence[str] = ()
) -> Evaluation:
    """Samples of a user's own file for a network that is finished: its test part or, where it has none, all that it has.

    Args:
        path: see `load_file`.
        classes: number of classes that the network tells apart, of which the file need not have all; None to leave that open.
        target: see `load_file`.
        names: names of the classes in their order; empty where they are numbers, or the file's own in order.
        columns: names of the columns of a table that the network takes, in its order; empty where they are not known.

    Raises:
        DataError: see `load_file`.
        InputError: see `load_file`.
    """
    parts, _ = _parts(path, "classification", target, tuple(names), tuple(columns))
    part = "test" if "test" in parts else "train"
    if part not in parts:
        raise DataError(f"{path}: has neither a test part nor a training part; needs x_test and y_test")
    x, y = tensors_of(parts[part], "classification")
    if classes is not None and int(y.max()) >= classes:
        raise DataError(
            f"{parts[part].y_name}: has the label {int(y.max())}; the network has the classes 0…{classes - 1}"
        )
    said: tuple[str, ...] = () if part == "test" else (f"on all {len(y)} samples of {path}, which has no test part",)
    if parts[part].columns and not columns:
        said += (f"columns and classes of {path} are taken in their order, as the network keeps no names of its own",)
    return Evaluation(x, y, said)


def _parts(
    path: Path, task: str, target: str, classes: tuple[str, ...], columns: tuple[str, ...] = ()
) -> tuple[dict[str, Samples], tuple[str, ...]]:
    """The samples of a file by part, and the names of their classes."""
    choices("task", task, TASKS)
    if not path.exists():
        raise DataError(f"{path}: not found; give the path of a .npz archive, a .csv table or a folder of images")
    is_table = path.suffix.lower() == ".csv"
    check(is_table or not target, "target", target, f"is a column of a table, and {path} is none; leave it out")
    if path.is_dir():
        check(task == TASKS[0], "task", task, "a folder of images has a class for every sub-folder")
        return read_pictures(path, classes)
    if is_table:
        samples, names = read_table(path, target, task, classes, columns)
        return {"train": samples}, names
    if path.suffix.lower() != ".npz":
        raise DataError(f"{path}: its suffix is none of .npz and .csv, and it is no folder of images")
    return samples_of(_archive(path), str(path)), ()


def source_digest(path: Path) -> str:
    """SHA-256 of a file; of a folder, of the names and contents of its files in order."""
    total = hashlib.sha256()
    files = sorted(found for found in path.rglob("*") if found.is_file()) if path.is_dir() else [path]
    for file in files:
        if path.is_dir():
            total.update(os.fsencode(file.relative_to(path).as_posix()) + b"\0")
        try:
            with file.open("rb") as stream:
                while block := stream.read(_READ):
                    total.update(block)
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror})") from error
    return total.hexdigest()


def _archive(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an archive; none that would run code when it is read."""
    found: dict[str, np.ndarray] = {}
    mend = "write it again with numpy.savez"
    with readable(path, "a readable .npz archive", mend), np.load(path, allow_pickle=False) as archive:
        for name in archive.files:
            found[name] = _entry(path, archive, name)
    return found


def _entry(path: Path, archive: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    try:
        entry: np.ndarray = archive[name]
    except ValueError as error:
        raise DataError(f"{path}: {name}: is an array of Python objects or corrupt; needs numbers ({error})") from error
    return entry

"""Tables of measurements in CSV: a header, columns of numbers, one column to be told from the others."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from wellposed.data.files import readable
from wellposed.data.own.arrays import Samples, as_array
from wellposed.errors import DataError, InputError

_OTHERS = {";": "semicolons", "\t": "tabs", "|": "bars"}  # what columns may be separated by in the place of commas


def read_table(
    path: Path, target: str, task: str, classes: tuple[str, ...], known: tuple[str, ...] = ()
) -> tuple[Samples, tuple[str, ...]]:
    """The rows of a table, and the names of its classes.

    Args:
        path: of a CSV file in UTF-8 whose first row has the names of its columns.
        target: the column with classes, texts or whole numbers, or with numbers to estimate. All others are numbers.
        task: ``"classification"`` or ``"regression"``.
        classes: names of classes in their order; empty for those of the table, sorted, whole numbers by size.
        known: names of the columns that a network takes, in its order; empty for those of the table in theirs.

    Raises:
        DataError: a row or a column is unusable; the message names file, row and column.
        InputError: no column has that name.
    """
    header, rows = _rows(path)
    if not target:
        raise InputError(f"target='': {path} needs --target, one of its columns {', '.join(header)}")
    if target not in header:
        raise InputError(f"target={target!r}: is no column of {path}, which has {', '.join(header)}")
    place = header.index(target)
    wanted = [row[place].strip() for row in rows]
    names = [name for name in header if name != target]
    columns = [[row[index] for row in rows] for index, name in enumerate(header) if name != target]
    if not columns:
        raise DataError(f"{path}: has no column besides {target!r}")
    if known and set(known) != set(names):
        raise DataError(f"{path}: has the columns {', '.join(names)}; the network takes {', '.join(known)}")
    columns = [columns[names.index(name)] for name in known or names]
    names = list(known or names)
    x = np.stack([_numbers(path, name, values) for name, values in zip(names, columns, strict=True)], 1)
    if task == "regression":
        return Samples(x, _numbers(path, target, wanted), str(path), f"{path}: column {target!r}", tuple(names)), ()
    codes, found = _codes(path, target, wanted, classes)
    return Samples(x, as_array(str(path), codes), str(path), f"{path}: column {target!r}", tuple(names)), found


def _rows(path: Path) -> tuple[list[str], list[list[str]]]:
    mend = "write it again"
    with readable(path, "a readable CSV table in UTF-8", mend), path.open(encoding="utf-8-sig", newline="") as stream:
        lines = [row for row in csv.reader(stream) if row]
    if len(lines) < 2:
        raise DataError(f"{path}: needs a header and at least one row")
    header, rows = [name.strip() for name in lines[0]], lines[1:]
    if other := next((mark for mark in _OTHERS if len(header) == 1 and mark in header[0]), None):
        raise DataError(
            f"{path}: its columns are separated by {_OTHERS[other]}; needs commas: write the table again with them"
        )
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise DataError(f"{path}: two columns have the name {twice!r}")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise DataError(f"{path}: row {number} has {len(row)} entries, the header {len(header)}")
    return header, rows


def _numbers(path: Path, name: str, values: list[str]) -> np.ndarray:
    """A column of finite numbers."""
    found = np.empty(len(values))
    for row, text in enumerate(values):
        try:
            found[row] = float(text)
        except ValueError as error:
            raise DataError(f"{path}: column {name!r}, row {row + 1}: {text!r} is no number") from error
    if not np.isfinite(found).all():
        row = int(np.flatnonzero(~np.isfinite(found))[0])
        raise DataError(
            f"{path}: column {name!r}, row {row + 1}: {values[row]!r} is not finite; fill it in, or leave the row out"
        )
    return found


def _codes(path: Path, target: str, wanted: list[str], classes: tuple[str, ...]) -> tuple[list[int], tuple[str, ...]]:
    """Classes as 0…k − 1, and their names."""
    if "" in wanted:
        raise DataError(f"{path}: column {target!r}, row {wanted.index('') + 1}: has no class")
    distinct = set(wanted)
    if not classes:
        numbers = all(_is_number(name) for name in distinct)
        whole = numbers and all(float(name).is_integer() for name in distinct)
        if not whole and numbers:
            raise DataError(
                f"{path}: column {target!r} has numbers that are not whole; for numbers to estimate: --task regression"
            )
        if whole and len({float(name) for name in distinct}) < len(distinct):
            raise DataError(
                f"{path}: column {target!r} writes the same class in several ways, such as 1 and 1.0; write one"
            )
        classes = tuple(sorted(distinct, key=float) if whole else sorted(distinct))
    if unknown := sorted(distinct - set(classes)):
        raise DataError(f"{path}: column {target!r} has the class {unknown[0]!r}; known are {', '.join(classes)}")
    code = {name: place for place, name in enumerate(classes)}
    return [code[name] for name in wanted], classes


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

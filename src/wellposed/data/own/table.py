"""Tables of measurements in CSV: a header, columns of numbers, one column to be told from the others."""

from __future__ import annotations

import csv
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wellposed.data.own.arrays import Samples, as_array
from wellposed.errors import DataError, InputError, choices

_OTHERS = {";": "semicolons", "\t": "tabs", "|": "bars"}  # what columns may be separated by in the place of commas
_LARGEST = float(np.finfo(np.float32).max)


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
        DataError: a row or a column is unusable; the message names file, line and column. Lines are those of the file, of which
            the header is line 1.
        InputError: no column has that name.
    """
    table = _read(path)
    header = list(table.columns)
    if not target or target not in header:
        _check_names(path, header)
    if not target:
        raise InputError(f"target='': {path} needs --target, one of its columns {', '.join(header)}")
    choices("target", target, tuple(header))
    names = [name for name in header if name != target]
    if not names:
        raise DataError(f"{path}: has no column besides {target!r}; needs one with numbers at least")
    if known and set(known) != set(names):
        raise DataError(
            f"{path}: has the columns {', '.join(names)}; the network takes {', '.join(known)}: name them so, leave others out"
        )
    names = list(known or names)
    more = "; every column but the target is an input: leave it out of the file, or write its kinds as numbers"
    x = np.stack([table.numbers(name, more) for name in names], 1)
    y_name = f"{path}: column {target!r}"
    if task == "regression":
        y = table.numbers(target, "; numbers are to be estimated: leave --task out for classes")
        return Samples(x, y, str(path), y_name, tuple(names), "add rows"), ()
    codes, found = table.codes(target, classes)
    return Samples(x, as_array(str(path), codes), str(path), y_name, tuple(names), "add rows"), found


@dataclass(frozen=True)
class _Table:
    """The texts of a table.

    Attributes:
        path: of the file.
        columns: texts of every column by its name.
        lines: of the file, where each row ends; the header is line 1.
    """

    path: Path
    columns: dict[str, list[str]]
    lines: list[int]

    def at(self, name: str, row: int) -> str:
        """The place of an entry, as errors begin."""
        return f"{self.path}: line {self.lines[row]}, column {name!r}"

    def numbers(self, name: str, mend: str) -> np.ndarray:
        """A column of finite numbers.

        Args:
            name: of the column.
            mend: of a text that is no number, as errors end.
        """
        values = self.columns[name]
        found = np.empty(len(values))
        for row, text in enumerate(values):
            if not text:
                raise DataError(f"{self.at(name, row)}: is empty; fill it in, or leave the row out")
            if not _is_number(text):
                raise DataError(f"{self.at(name, row)}: {text!r} is no number{mend}")
            found[row] = float(text)
            if not abs(found[row]) <= _LARGEST:
                words = "is not finite" if not np.isfinite(found[row]) else "is too large for float32"
                raise DataError(f"{self.at(name, row)}: {text!r} {words}; fill it in, or leave the row out")
        return found

    def codes(self, name: str, classes: tuple[str, ...]) -> tuple[list[int], tuple[str, ...]]:
        """A column of classes as 0…k − 1, and their names.

        Args:
            name: of the column.
            classes: names of classes in their order; empty for those of the column.
        """
        wanted = self.columns[name]
        if "" in wanted:
            raise DataError(f"{self.at(name, wanted.index(''))}: has no class; fill it in, or leave the row out")
        distinct, column = set(wanted), f"{self.path}: column {name!r}"
        if not classes:
            numbers = all(map(_is_number, distinct))
            whole = numbers and all(float(text).is_integer() for text in distinct)
            if not whole and numbers:
                raise DataError(f"{column} has numbers that are not whole; for numbers to estimate: --task regression")
            if whole and len({float(text) for text in distinct}) < len(distinct):
                raise DataError(f"{column} writes the same class in several ways, such as 1 and 1.0; write one")
            classes = tuple(sorted(distinct, key=float) if whole else sorted(distinct))
        if unknown := sorted(distinct - set(classes)):
            row = wanted.index(unknown[0])
            raise DataError(
                f"{self.at(name, row)}: has the class {unknown[0]!r}; known are {', '.join(classes)}: leave such rows out"
            )
        code = {text: place for place, text in enumerate(classes)}
        return [code[text] for text in wanted], classes


def _read(path: Path) -> _Table:
    """A table whose rows have as many entries as its header.

    Raises:
        DataError: there is none; the message says what to change.
    """
    rows, lines, line = [], [], 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(
                stream, skipinitialspace=True, strict=True
            )  # else an open quotation mark takes all rows after it
            for row in reader:
                line = reader.line_num + 1
                if row:
                    rows.append([text.strip() for text in row])
                    lines.append(reader.line_num)
    except UnicodeDecodeError as error:
        name, code = (
            ("UTF-16", "utf-16") if error.object.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else ("Latin-1", "latin1")
        )
        mend = f"convert it, from {name} by `iconv -f {code} -t utf-8 {path.name} > utf-8-{path.name}`"
        raise DataError(f"{path}: not in UTF-8 ({error.reason}, byte {error.start}); {mend}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give a table that can be read") from error
    except csv.Error as error:
        mend = "mend quotation marks there, or write the table again as CSV"
        raise DataError(f"{path}: line {line} begins no readable row of CSV ({error}); {mend}") from error
    if len(rows) < 2:
        found = "one line only" if rows else "no lines"
        raise DataError(f"{path}: has {found}; needs a header and at least one row")
    header, entries = rows[0], rows[1:]
    if other := next((mark for mark in _OTHERS if len(header) == 1 and mark in header[0]), None):
        raise DataError(
            f"{path}: its columns are separated by {_OTHERS[other]}; needs commas: write the table again with them"
        )
    for number, row in zip(lines[1:], entries, strict=True):
        if len(row) != len(header):
            words = f"line {number} has {len(row)} entries, the header {len(header)}"
            raise DataError(f"{path}: {words}; fill it up, and put texts with commas into quotation marks")
    if len(set(header)) < len(header):
        _check_names(path, header)
        twice = next(name for name in header if header.count(name) > 1)
        raise DataError(f"{path}: two columns have the name {twice!r}; rename one of them in line 1")
    return _Table(path, {name: [row[place] for row in entries] for place, name in enumerate(header)}, lines[1:])


def _check_names(path: Path, header: list[str]) -> None:
    """Refuse a header that is a row of numbers."""
    if all(map(_is_number, header)):
        words = f"line 1 has numbers, {', '.join(header[:3])}, …, and no names of columns"
        raise DataError(f"{path}: {words}; put a line with the names of the columns before it")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

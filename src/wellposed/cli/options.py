"""What all commands share: common options, parsing, printing."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from wellposed.errors import OptionError, WellposedError, check, check_fields
from wellposed.experiments.radii import check_radii
from wellposed.training.files import strict


@dataclass(frozen=True)
class Common:
    """Options of every command."""

    data_root: Path | None = None
    """Folder of the data sets, e.g. with MNIST/raw/*.gz; default: $WELLPOSED_DATA, then ~/.cache/wellposed."""
    json: bool = False
    """Print the result as JSON."""
    threads: int | None = None
    """CPU threads; default: torch's own choice."""


# What options of all commands mean by their names: numbers that must be positive, and those that may be zero, too.
_POSITIVE = (
    "threads", "limit", "jobs", "steps", "restarts", "seeds", "trials", "draws", "stride", "seconds", "minutes", "tolerance",
    "scale", "learning_rate",
)  # fmt: skip
_NOT_NEGATIVE = ("carlini_wagner", "epochs", "seed", "gamma")
_MOST = {"threads": 1024, "jobs": 1024}  # which no machine has, and which would bring it down


def parse(cls: type[Any], arguments: list[str], prog: str, default: Any = None) -> Any:
    """Options from the command line, checked as far as they can be alone, and in effect where they are about the whole program.

    Raises:
        OptionError: an option does not exist, or its value is of another kind.
        InputError: a value is unusable.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options = tyro.cli(cls, args=arguments, prog=prog, default=default, config=(tyro.conf.OmitArgPrefixes,))
    except SystemExit as stop:
        if own := _own_error(stop):
            raise own from stop
        if stop.code:
            raise OptionError(f"{_in_one_line(said.getvalue())}; {prog} --help lists all options") from stop
        raise
    check_fields(options)
    _check_values(options)
    if options.threads is not None:
        import torch

        torch.set_num_threads(options.threads)
    return options


def _in_one_line(text: str) -> str:
    """What the parser of options prints in a box, without the box, its heading and the help that it repeats."""
    lines = [line.strip(" │|") for line in text.splitlines()[1:]]
    parts = [list(filter(None, part)) for ruled, part in itertools.groupby(lines, _is_rule) if not ruled]
    first, *others = [part for part in parts if part] or [["unusable options"]]
    words = " ".join(itertools.takewhile(lambda line: line != "Got errors:", first)).rstrip(" .")
    return words + "".join(f". {part[0]} {part[1]}" for part in others if part[0].startswith("Perhaps") and part[1:])


def _is_rule(line: str) -> bool:
    return bool(line) and not line.strip("─-+╰╯")


def _check_values(options: Any) -> None:
    """Refuse numbers outside of what an option of their name can be, and places that are of another kind."""
    for name in (*_POSITIVE, *_NOT_NEGATIVE):
        value = getattr(options, name, None)
        if value is not None:
            low = value > 0 or (value == 0 and name in _NOT_NEGATIVE)
            check(low, name, value, "must not be negative" if name in _NOT_NEGATIVE else "must be positive")
    for name, most in _MOST.items():
        value = getattr(options, name, None)
        check(value is None or value <= most, name, value, f"must be at most {most}")
    if getattr(options, "eps", None) is not None:
        check_radii(options.eps)
    if options.data_root is not None:
        place = str(options.data_root)
        check(not options.data_root.is_file(), "data_root", place, "is a file; give the folder of the data sets")


def _own_error(error: BaseException | None) -> WellposedError | None:
    """This library's error that another one was made of, if there is one."""
    while error is not None and not isinstance(error, WellposedError):
        error = error.__cause__ or error.__context__
    return error


def show(result: Any, text: str, options: Any) -> int:
    """Print a result, as strict JSON where that is wanted; the exit code of success."""
    print(json.dumps(strict(result), allow_nan=False) if options.json else text)
    return 0

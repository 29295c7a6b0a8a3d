"""What all commands share: common options, parsing, printing."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from wellposed.errors import WellposedError, check, check_fields
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


def parse(cls: type[Any], arguments: list[str], prog: str, default: Any = None) -> Any:
    """Options from the command line, in effect where they are about the whole program."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options = tyro.cli(cls, args=arguments, prog=prog, default=default, config=(tyro.conf.OmitArgPrefixes,))
    except SystemExit as stop:
        if own := _own_error(stop):
            raise own from stop
        print(said.getvalue(), end="", file=sys.stderr)
        raise
    check_fields(options)
    if getattr(options, "eps", None) is not None:
        check_radii(options.eps)
    if options.threads is not None:
        check(options.threads >= 1, "threads", options.threads, "must be at least 1")
        import torch

        torch.set_num_threads(options.threads)
    return options


def _own_error(error: BaseException | None) -> WellposedError | None:
    """This library's error that another one was made of, if there is one."""
    while error is not None and not isinstance(error, WellposedError):
        error = error.__cause__ or error.__context__
    return error


def show(result: Any, text: str, options: Any) -> int:
    """Print a result, as strict JSON where that is wanted; the exit code of success."""
    print(json.dumps(strict(result), allow_nan=False) if options.json else text)
    return 0

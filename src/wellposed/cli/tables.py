"""``wellposed compare`` and ``wellposed report``: the numbers of runs in tables, and as a page."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from wellposed.cli.options import Common, parse, show
from wellposed.errors import InputError
from wellposed.experiments.radii import RADII
from wellposed.training.writer import one_writer


@dataclass(frozen=True)
class Compare(Common):
    """One table for several certified runs."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """The run folders."""
    eps: tuple[float, ...] = RADII
    """Euclidean radii of the table."""


@dataclass(frozen=True)
class Report(Common):
    """Draw the plots of a certified run and write report.html into its folder."""

    run: tyro.conf.Positional[Path] = Path()
    """The run folder."""
    eps: tuple[float, ...] = RADII
    """Euclidean radii of the table."""


def compare(arguments: list[str]) -> int:
    """``wellposed compare RUN RUN …``."""
    options = parse(Compare, arguments, "wellposed compare")
    from wellposed.experiments.tables import as_text, summarise

    if not options.runs:
        raise InputError("runs=(): give at least one run folder")
    summaries = [summarise(run, options.eps) for run in options.runs]
    return show([dataclasses.asdict(s) for s in summaries], "\n\n".join(as_text(s) for s in summaries), options)


def report(arguments: list[str]) -> int:
    """``wellposed report RUN``."""
    options = parse(Report, arguments, "wellposed report")
    from wellposed.experiments.report import write_report
    from wellposed.experiments.tables import as_text

    with one_writer(options.run):
        page, summary = write_report(options.run, options.eps, options.data_root)
    return show(
        {"report": str(page), **dataclasses.asdict(summary)}, f"{as_text(summary)}\n\n{page.resolve()}", options
    )


def show_table(run: Path, options: Any) -> int:
    """Print the table of a run."""
    from wellposed.experiments.tables import as_text, summarise

    summary = summarise(run, options.eps)
    return show(dataclasses.asdict(summary), as_text(summary), options)

"""``wellposed compare`` and ``wellposed report``: the numbers of runs in tables, and as a page."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from wellposed.cli.options import Common, parse, show
from wellposed.errors import InputError
from wellposed.experiments.radii import RADII
from wellposed.training.writer import one_writer

if TYPE_CHECKING:
    from wellposed.experiments.comparison import Compared


@dataclass(frozen=True)
class Compare(Common):
    """One table, one picture and one page for several runs that were certified or attacked."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """The run folders."""
    eps: tuple[float, ...] = RADII
    """Euclidean radii; the table and the picture are about the middle one, the page has them all."""
    out: Path | None = None
    """Folder for compare.html, which needs no other file, and its picture."""


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
    from wellposed.experiments.comparison import as_text as comparison_text
    from wellposed.experiments.comparison import compared, write_comparison
    from wellposed.experiments.tables import as_text

    if not options.runs:
        raise InputError("runs=(): give at least one run folder")
    radius = options.eps[len(options.eps) // 2]
    entries = [compared(run, options.eps, options.data_root) for run in options.runs]
    texts = [comparison_text(entries, radius), *(as_text(entry.summary) for entry in entries)]
    if options.out is not None:
        texts.append(str(write_comparison(entries, radius, options.out).resolve()))
    found = [{**dataclasses.asdict(entry.summary), **_beside(entry)} for entry in entries]
    return show(found, "\n\n".join(texts), options)


def _beside(entry: Compared) -> dict[str, Any]:
    return {"parameters": entry.parameters, "iterations": entry.iterations, "seconds": entry.seconds}


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

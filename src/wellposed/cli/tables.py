"""``wellposed compare`` and ``wellposed report``: the numbers of runs in tables, and as a page."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from wellposed.cli.options import Common, parse, show
from wellposed.errors import InputError, check
from wellposed.experiments.radii import radii_for
from wellposed.training.folder import check_is_run
from wellposed.training.writer import one_writer_of_run

if TYPE_CHECKING:
    from wellposed.experiments.compared_estimates import ComparedEstimate
    from wellposed.experiments.comparison import Facts


@dataclass(frozen=True)
class Compare(Common):
    """One table, one picture and one page for several runs that were certified or attacked; by regression, a table and a page."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """The run folders."""
    eps: tuple[float, ...] | None = None
    """Euclidean radii; the table and the picture are about the middle one, the page has them all."""
    data: str | None = None
    """Where data of your own that the runs were trained on are now, if they were moved."""
    out: Path | None = None
    """Folder for compare.html, which needs no other file, and its picture."""


@dataclass(frozen=True)
class Report(Common):
    """Draw the plots of a run that was certified or attacked, and write report.html into its folder."""

    run: tyro.conf.Positional[Path] = Path()
    """The run folder."""
    eps: tuple[float, ...] | None = None
    """Radii of the tables, in units of the inputs; defaults as those of certify."""
    data: str | None = None
    """Where data of your own that the run was trained on are now, if they were moved."""


def compare(arguments: list[str]) -> int:
    """``wellposed compare RUN RUN …``."""
    options = parse(Compare, arguments, "wellposed compare")
    from wellposed.experiments.compared_estimates import compared_estimate, estimates_text, write_estimates
    from wellposed.experiments.comparison import as_text as comparison_text
    from wellposed.experiments.comparison import compared, write_comparison
    from wellposed.experiments.tables import as_text
    from wellposed.training.about import about_run

    if not options.runs:
        raise InputError("runs=(): give at least one run folder")
    for run in options.runs:
        check_is_run(run)
    command = ["wellposed", "compare", *arguments]
    kinds = [about_run(run).has_logits for run in options.runs]
    if not any(kinds):
        check(options.eps is None, "eps", options.eps, "runs by regression have a slope for all radii; leave it out")
        estimates = [compared_estimate(run, options.data_root, options.data) for run in options.runs]
        text = estimates_text(estimates)
        if options.out is not None:
            text += f"\n\n{write_estimates(estimates, options.out, command).resolve()}"
        return show([_of_estimate(entry) for entry in estimates], text, options)
    if not all(kinds):
        one, other = options.runs[kinds.index(True)], options.runs[kinds.index(False)]
        raise InputError(f"runs: {one} tells classes apart, and {other} estimates numbers; compare each kind by itself")
    eps = radii_for(options.runs[0], options.eps)
    radius = eps[len(eps) // 2]
    entries = [compared(run, eps, options.data_root, options.data) for run in options.runs]
    texts = [comparison_text(entries, radius), *(as_text(entry.summary) for entry in entries)]
    if options.out is not None:
        texts.append(str(write_comparison(entries, radius, options.out, command).resolve()))
    found = [{**dataclasses.asdict(entry.summary), **_beside(entry.facts)} for entry in entries]
    return show(found, "\n\n".join(texts), options)


def _of_estimate(entry: ComparedEstimate) -> dict[str, Any]:
    known = {
        "run": str(entry.run),
        **dataclasses.asdict(entry.estimate),
        "units": entry.units,
        "remarks": entry.remarks,
    }
    return {**known, **_beside(entry.facts)}


def _beside(facts: Facts) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(facts).items() if name != "data_sha256"}


def report(arguments: list[str]) -> int:
    """``wellposed report RUN``."""
    options = parse(Report, arguments, "wellposed report")
    from wellposed.experiments.network_folders import refuse_network_folder
    from wellposed.experiments.report import write_report

    refuse_network_folder(
        options.run, "report", "draws what runs note; its card.md says what is known, certify --data the rest"
    )
    with one_writer_of_run(options.run):
        eps = radii_for(options.run, options.eps)
        found = write_report(options.run, eps, options.data_root, options.data, ["wellposed", "report", *arguments])
    text = "\n\n".join([found.text, "\n".join(found.conclusions), str(found.page.resolve())])
    return show({"report": str(found.page), **found.numbers}, text, options)


def show_table(run: Path, options: Any) -> int:
    """Print the table of a run."""
    from wellposed.experiments.tables import as_text, summarise

    summary = summarise(run, radii_for(run, options.eps))
    return show(dataclasses.asdict(summary), as_text(summary), options)

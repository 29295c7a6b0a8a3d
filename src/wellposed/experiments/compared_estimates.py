"""Several runs by regression beside each other: errors and certified slopes in one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wellposed.experiments.comparison import Facts, fact_cells, facts_of, labelled, names_of, page_of, warnings_on
from wellposed.experiments.provenance import trained
from wellposed.experiments.regression import SLOPE_UNITS, Estimate, as_text, error_cells, read_estimate, remarks_on
from wellposed.experiments.tables import bounds
from wellposed.training.about import about_run

_HEADER = (
    "run", "error", "error of the targets' mean", "slope at most", "slope at least", "ratio", "iterations", "training, s",
    "parameters", "test inputs", "remarks",
)  # fmt: skip


@dataclass(frozen=True)
class ComparedEstimate:
    """All that a table of several runs by regression says of one.

    Attributes:
        run: its folder.
        estimate: its error and its slope, in the Euclidean norm.
        units: of inputs, in words.
        facts: what is known of any run.
    """

    run: Path
    estimate: Estimate
    units: str
    facts: Facts

    @property
    def remarks(self) -> list[str]:
        """What a reader must know, in words."""
        first = [self.estimate.warning] if self.estimate.warning else []
        return [*first, *remarks_on(self.run, self.estimate)]


def compared_estimate(run: Path, data_root: Path | None, own_data: str | None = None) -> ComparedEstimate:
    """What a comparison says of a run by regression.

    Args:
        run: its folder, certified.
        data_root: see `load_images`.
        own_data: see `load_run`.

    Raises:
        CheckpointError: the run is not finished, or not certified.
    """
    return ComparedEstimate(run, read_estimate(run), about_run(run).units, facts_of(run, data_root, own_data))


def cells_of(entry: ComparedEstimate, name: str) -> list[str]:
    """A row of the table: the run's name, and a dash for what is not known."""
    samples, error, mean = error_cells(entry.estimate)
    slopes = bounds(entry.estimate.lower_bound, entry.estimate.slope)
    return [name, error, mean, *slopes, *fact_cells(entry.facts), samples, "; ".join(entry.remarks)]


def estimates_text(entries: Sequence[ComparedEstimate]) -> str:
    """The table as aligned text, what its columns are, and a line about every run."""
    lines = labelled([_HEADER, *_rows(entries)])
    return "\n".join(
        [lines, _caption(), *warnings_of(entries), "", *(as_text(entry.run, entry.estimate) for entry in entries)]
    )


def _names(entries: Sequence[ComparedEstimate]) -> list[str]:
    return names_of([entry.run for entry in entries])


def _rows(entries: Sequence[ComparedEstimate]) -> list[list[str]]:
    return list(map(cells_of, entries, _names(entries)))


def _caption() -> str:
    return f"errors are root mean squared, in the unit of the targets; slopes are Euclidean, in {SLOPE_UNITS}"


def warnings_of(entries: Sequence[ComparedEstimate]) -> list[str]:
    """What a reader of a comparison must know first: runs that learned nothing, other data, inputs of different units."""
    said = [
        (name, entry.estimate.warning, entry.units, entry.facts)
        for entry, name in zip(entries, _names(entries), strict=True)
    ]
    return warnings_on(said, "slope")


def write_estimates(entries: Sequence[ComparedEstimate], folder: Path, command: Sequence[str] = ()) -> Path:
    """Write ``compare.html`` with the table in it.

    Args:
        entries: the runs.
        folder: for the page; made where it is not there.
        command: the words of the command line, as the page's provenance; none where a program asks.

    Returns:
        The page.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    provenance = [(name, trained(entry.run)) for entry, name in zip(entries, _names(entries), strict=True)]
    return page_of(
        folder, command, provenance, warnings=warnings_of(entries), caption=_caption(), header=_HEADER, cells=_rows(entries),
        radii=False,
    )  # fmt: skip

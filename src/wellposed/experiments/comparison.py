"""Several runs beside each other: one table, one picture, one HTML page."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wellposed.errors import require
from wellposed.experiments.iterations import iterations
from wellposed.experiments.pages import Picture, embedded, render
from wellposed.experiments.plots import first_inputs, panels
from wellposed.experiments.provenance import page_made, trained
from wellposed.experiments.tables import COLUMNS, Row, Summary, about_rows, cells, header, percent, summarise
from wellposed.training.about import about_run
from wellposed.training.files import legible, make_folder, write_text
from wellposed.training.folder import RunFolder, read_environment
from wellposed.training.run import load_run

_INPUTS = 200  # for which iterations are counted
_COLOURS = ("#1f5f99", "#b5423c", "#6b7d5c", "#c98a3d", "#5b8db8", "#7d5c7a", "#9aa5b1", "#2f2f2f")
_MARKERS = {
    "●": "o",
    "■": "s",
    "◆": "D",
    "▲": "^",
    "▼": "v",
    "✚": "P",
    "★": "*",
    "✖": "X",
}  # of matplotlib, by their glyphs
_GLYPHS = tuple(_MARKERS)
_LEGEND = 90  # letters that its rows have room for


@dataclass(frozen=True)
class Facts:
    """What a table of several runs says of one of any kind.

    Attributes:
        parameters: number of trained numbers.
        iterations: of the solves of all layers together, for the first test inputs, to the tolerance of evaluation; None where
            nothing is solved.
        seconds: of training, on whatever machine that was; None where that was not noted.
        data: name of the set.
        data_sha256: of a user's own data; empty for sets that are known by name.
    """

    parameters: int
    iterations: float | None
    seconds: float | None
    data: str = ""
    data_sha256: str = ""


def facts_of(run: Path, data_root: Path | None, own_data: str | None = None) -> Facts:
    """What is said of a run of any kind.

    Args:
        run: its folder.
        data_root: see `load_images`.
        own_data: see `load_run`.

    Raises:
        CheckpointError: the run is not finished.
    """
    _, data, model = load_run(run, data_root, own_data)
    noted = RunFolder(run).environment
    seconds = read_environment(run).get("seconds") if noted.exists() else None
    parameters = sum(part.numel() for part in model.parameters())
    steps = iterations(model, first_inputs(data, f"run={str(run)!r}", _INPUTS))
    return Facts(parameters, steps, seconds, data.name, about_run(run).data_sha256)


def fact_cells(facts: Facts) -> list[str]:
    """Iterations, seconds and parameters of a run; a dash for what is not known."""
    numbers = ["–" if value is None else f"{value:.1f}" for value in (facts.iterations, facts.seconds)]
    return [*numbers, str(facts.parameters)]


@dataclass(frozen=True)
class Compared:
    """All that a table of several runs says of one.

    Attributes:
        summary: its accuracies and constants.
        facts: what is known of any run.
    """

    summary: Summary
    facts: Facts

    def at(self, radius: float) -> Row:
        """The accuracies at one of the radii."""
        return next(row for row in self.summary.rows if row.radius == radius)


def compared(run: Path, radii: Sequence[float], data_root: Path | None, own_data: str | None = None) -> Compared:
    """What a comparison says of a run.

    Args:
        run: its folder; certified, attacked or both.
        radii: Euclidean ones.
        data_root: see `load_images`.
        own_data: see `load_run`.

    Raises:
        CheckpointError: the run is not finished, or neither certified nor attacked.
        CertificateError: an attack broke a certificate.
    """
    return Compared(summarise(run, radii), facts_of(run, data_root, own_data))


def names_of(runs: Sequence[Path | str]) -> list[str]:
    """What a table of several runs calls each: the name of its folder, after as many folders as tell it from all others."""
    parts = [Path(os.path.abspath(run)).parts for run in runs]
    return [str(Path(*own[-_telling(own, parts) :])) for own in parts]


def _telling(own: tuple[str, ...], all_: Sequence[tuple[str, ...]]) -> int:
    """How many of the last parts of a path no other path has."""
    others = [parts for parts in all_ if parts != own]
    return next((n for n in range(1, len(own)) if all(parts[-n:] != own[-n:] for parts in others)), len(own))


def cells_of(entry: Compared, radius: float, name: str) -> list[str]:
    """A row of the table, see `header_of`: the run's name, accuracies in %, a dash for what is not known."""
    row = entry.at(radius)
    shares = [percent(value) for value in (row.clean, row.certified, row.attacked)]
    summary = entry.summary
    inputs = f"{summary.samples} {summary.inputs}"
    return [name, *shares, *fact_cells(entry.facts), inputs, "; ".join(summary.remarks)]


def header_of(radius: float) -> list[str]:
    """Names of the columns of `cells_of`."""
    return [
        "run", "clean, %", f"certified at {radius:g}, %", f"attacked at {radius:g}, %", "iterations", "training, s", "parameters",
        "first test inputs", "remarks",
    ]  # fmt: skip


def as_text(entries: Sequence[Compared], radius: float) -> str:
    """The table as aligned text, and what a reader must know first."""
    rows = [header_of(radius), *_rows(entries, radius)]
    return "\n".join([labelled(rows), *warnings_of(entries)])


def _names(entries: Sequence[Compared]) -> list[str]:
    return names_of([entry.summary.run for entry in entries])


def _rows(entries: Sequence[Compared], radius: float) -> list[list[str]]:
    return [cells_of(entry, radius, name) for entry, name in zip(entries, _names(entries), strict=True)]


def labelled(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned text: names at the left, numbers at the right, and remarks last.

    Args:
        rows: of cells, the header first.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: Sequence[str]) -> str:
        name, *numbers, remarks = row
        aligned = [cell.rjust(width) for cell, width in zip(numbers, widths[1:-1], strict=True)]
        return "  ".join([name.ljust(widths[0]), *aligned, remarks]).rstrip()

    return "\n".join(map(line, rows))


def warnings_of(entries: Sequence[Compared]) -> list[str]:
    """What a reader of a comparison must know first: runs that learned nothing, other data or inputs, other units."""
    named = list(zip(entries, _names(entries), strict=True))
    said = [(name, entry.summary.warning, entry.summary.units, entry.facts) for entry, name in named]
    found = warnings_on(said, "radius")
    if len({entry.summary.samples for entry in entries}) > 1:
        listed = ", ".join(f"{name} {entry.summary.samples}" for entry, name in named)
        found.append(
            "These runs were measured on different numbers of test inputs, so that their accuracies hardly compare: "
            f"{listed}; certify and attack them with one --limit."
        )
    return found


def warnings_on(runs: Sequence[tuple[str, str, str, Facts]], measure: str) -> list[str]:
    """What a reader of a comparison must know first, see `warnings_of`.

    Args:
        runs: name, warning, units of inputs and facts of each.
        measure: what means different things in different units.
    """
    said = [f"{name}: {warning}." for name, warning, _, _ in runs if warning]
    if len({(facts.data, facts.data_sha256) for *_, facts in runs}) > 1:
        listed = ", ".join(f"{name} {facts.data}" for name, *_, facts in runs)
        said.append(
            f"These runs are on different data, so that their accuracies and constants do not compare: {listed}."
        )
    units: dict[str, list[str]] = {}
    for name, _, unit, _ in runs:
        units.setdefault(unit, []).append(name)
    if len(units) > 1:
        listed = ", ".join(f"{unit} ({', '.join(some)})" for unit, some in units.items())
        said.append(f"The same {measure} means different things here: units are {listed}.")
    return said


def write_comparison(entries: Sequence[Compared], radius: float, folder: Path, command: Sequence[str] = ()) -> Path:
    """Write ``compare.html`` with the table and the pictures in it, and ``compare.svg`` and ``compare.png``.

    Args:
        entries: the runs.
        radius: of the certified and attacked accuracies, one of those that they were summarised at.
        folder: for the files; made where it is not there.
        command: the words of the command line, as the page's provenance; none where a program asks.

    Returns:
        The page.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    make_folder(folder)
    names = _names(entries)
    return page_of(
        folder,
        command,
        [(name, trained(Path(entry.summary.run))) for entry, name in zip(entries, names, strict=True)],
        warnings=warnings_of(entries),
        caption=f"accuracies in %, certified and attacked ones at the Euclidean radius {radius:g}",
        header=header_of(radius),
        cells=_rows(entries, radius),
        legend=[(name, *_colour_and_glyph(place)) for place, name in enumerate(names)],
        pictures=_draw(entries, radius, folder),
        runs=[_section(entry.summary, name) for entry, name in zip(entries, names, strict=True)],
        radii=True,
    )


def page_of(folder: Path, command: Sequence[str], provenance: Sequence[tuple[str, str]], **content: Any) -> Path:
    """Write ``compare.html``.

    Args:
        folder: for the page; made where it is not there.
        command: the words of the command line; none where a program asks.
        provenance: of the runs, by their names.
        content: of the template ``compare.html.jinja``.

    Returns:
        The page.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    make_folder(folder)
    page = folder / "compare.html"
    made = [*provenance, ("this page", page_made(command))]
    write_text(
        page, legible(render("compare.html.jinja", title="Runs compared", width="64rem", provenance=made, **content))
    )
    return page


def _section(summary: Summary, name: str) -> dict[str, Any]:
    """All radii of one run, as the page shows them."""
    return {
        "title": name, "header": header(summary), "caption": about_rows(summary), "columns": COLUMNS,
        "cells": [cells(row) for row in summary.rows],
    }  # fmt: skip


_AXES: tuple[tuple[str, bool, Callable[[Compared, Row], float | None]], ...] = (
    ("clean accuracy, %", False, lambda entry, row: 100 * row.clean),
    ("parameters", True, lambda entry, row: entry.facts.parameters),
    ("iterations", False, lambda entry, row: entry.facts.iterations),
    ("training, s", True, lambda entry, row: entry.facts.seconds),
)


def _draw(entries: Sequence[Compared], radius: float, folder: Path) -> list[Picture]:
    """Certified and attacked accuracy over four numbers: filled and hollow points, joined for each run.

    The files have all four with a legend; the pictures for the page are one each, since a phone shows them one by one.
    """
    matplotlib = require("matplotlib", "train")
    settings: Any = {"font.size": 9, "svg.hashsalt": "wellposed"}
    with matplotlib.rc_context():
        figure, grid = panels(2, 2, figsize=(8.0, 6.0), sharey=True, layout="constrained")
        matplotlib.rcParams.update(settings)
        for place, axes in enumerate(grid.flat):
            _panel(axes, entries, radius, place)
        for axes in grid[:, 1:].flat:  # whose ordinate is that at the left
            axes.set_ylabel("")
        figure.suptitle("Filled: certified; hollow: under attack", fontsize=9)
        handles, labels = grid[0, 0].get_legend_handles_labels()
        columns = max(1, min(4, _LEGEND // max(map(len, labels))))
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)
        for ending in ("png", "svg"):
            figure.savefig(folder / f"compare.{ending}", dpi=150, metadata={"Date": None} if ending == "svg" else None)
        pictures = [_picture(entries, radius, place) for place in range(len(_AXES))]
    return pictures


def _picture(entries: Sequence[Compared], radius: float, place: int) -> Picture:
    """One of the four panels."""
    content = io.BytesIO()
    figure, axes = panels(figsize=(4.4, 3.3), layout="constrained")
    _panel(axes, entries, radius, place)
    figure.savefig(content, format="svg", metadata={"Date": None})
    label, _, number = _AXES[place]
    said = [
        f"{name} {percent(row.certified)} % certified and {percent(row.attacked)} % attacked at {x:.4g}"
        for entry, name in zip(entries, _names(entries), strict=True)
        if (x := number(entry, row := entry.at(radius))) is not None
    ]
    title = f"Accuracy at radius {radius:g} over {label}"
    return Picture(title, f"{title}: {'; '.join(said) or 'not known'}.", embedded(content.getvalue(), "svg+xml"))


def _panel(axes: Any, entries: Sequence[Compared], radius: float, place: int) -> None:
    label, logarithmic, number = _AXES[place]
    for run, (entry, name) in enumerate(zip(entries, _names(entries), strict=True)):
        colour, glyph = _colour_and_glyph(run)
        learned = " (learned nothing)" if entry.summary.warning else ""
        axes.plot([], [], _MARKERS[glyph], color=colour, label=legible(name) + learned)
        _points(axes, entry, entry.at(radius), number, run)
    units = {entry.summary.units for entry in entries}
    unit = f", {units.pop()}" if len(units) == 1 else ""
    axes.set(xlabel=label, ylabel=f"accuracy in % at\nEuclidean radius {radius:g}{unit}", ylim=(-3, 103))
    known = [x for entry in entries if (x := number(entry, entry.at(radius))) is not None]
    if logarithmic and known and max(known) >= 10 * min(known) > 0:  # within a decade its ticks have no room
        axes.set_xscale("log", subs=())
        few = max(known) < 100 * min(known)
        axes.xaxis.get_major_locator().set_params(subs=(1.0, 2.0, 5.0) if few else (1.0,))
        axes.xaxis.set_major_formatter("{x:g}")


def _colour_and_glyph(place: int) -> tuple[str, str]:
    """Colour and glyph of a run's points."""
    return _COLOURS[place % len(_COLOURS)], _GLYPHS[place // len(_COLOURS) % len(_GLYPHS)]


def _points(axes: Any, entry: Compared, row: Row, number: Callable[[Compared, Row], float | None], place: int) -> None:
    x = number(entry, row)
    known = [100 * value for value in (row.certified, row.attacked) if value is not None]
    colour, glyph = _colour_and_glyph(place)
    marker = _MARKERS[glyph]
    if x is None:
        return
    axes.plot([x] * len(known), known, "-", color=colour, linewidth=1)
    for value, face, size in (
        (row.attacked, "white", 9),
        (row.certified, colour, 5),
    ):  # both are seen where they are equal
        if value is not None:
            axes.plot(x, 100 * value, marker, color=colour, markerfacecolor=face, markersize=size)

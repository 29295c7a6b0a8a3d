"""Several runs beside each other: one table, one picture, one HTML page."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from wellposed.data import Data
from wellposed.errors import require
from wellposed.experiments.iterations import iterations
from wellposed.experiments.tables import Row, Summary, summarise
from wellposed.training.about import about_run
from wellposed.training.files import legible, make_folder, write_text
from wellposed.training.folder import RunFolder, read_environment
from wellposed.training.run import load_run

_INPUTS = 200  # for which iterations are counted
_COLOURS = ("#1f5f99", "#b5423c", "#6b7d5c", "#c98a3d", "#5b8db8", "#7d5c7a", "#9aa5b1", "#2f2f2f")
_MARKERS = "osD^vP*X"
_LEGEND = 90  # letters that its rows have room for


@dataclass(frozen=True)
class Compared:
    """All that a table of several runs says of one.

    Attributes:
        summary: its accuracies and constants.
        parameters: number of trained numbers.
        iterations: of the solves of all layers together, for the first test inputs, to the tolerance of evaluation; None where
            nothing is solved.
        seconds: of training, on whatever machine that was; None where that was not noted.
        data: name of the set.
        data_sha256: of a user's own data; empty for sets that are known by name.
    """

    summary: Summary
    parameters: int
    iterations: float | None
    seconds: float | None
    data: str = ""
    data_sha256: str = ""

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
    summary = summarise(run, radii)
    _, data, model = load_run(run, data_root, own_data)
    noted = RunFolder(run).environment
    seconds = read_environment(run).get("seconds") if noted.exists() else None
    parameters = sum(part.numel() for part in model.parameters())
    steps = iterations(model, _first_inputs(data, str(run)))
    return Compared(summary, parameters, steps, seconds, data.name, about_run(run).data_sha256)


def differing_data(entries: Sequence[Compared]) -> str:
    """A sentence where runs are about different data, whose accuracies do not compare; else empty."""
    known = {(entry.data, entry.data_sha256) for entry in entries}
    if len(known) < 2:
        return ""
    names = ", ".join(f"{Path(entry.summary.run).name} {entry.data}" for entry in entries)
    return f"These runs are on different data, so that their accuracies and constants do not compare: {names}."


def _first_inputs(data: Data, run: str) -> Any:
    if data.inputs == "graphs":
        graphs = data.as_graphs(f"run={run!r}")
        return graphs.batch(graphs.test[:_INPUTS])[0]
    return data.as_tensors(f"run={run!r}").test_x[:_INPUTS]


def cells_of(entry: Compared, radius: float) -> list[str]:
    """A row of the table, see `header_of`: accuracies in %, a dash for what is not known."""
    row = entry.at(radius)
    shares = ["–" if value is None else f"{100 * value:.2f}" for value in (row.clean, row.certified, row.attacked)]
    numbers = ["–" if value is None else f"{value:.1f}" for value in (entry.iterations, entry.seconds)]
    summary = entry.summary
    inputs = f"{summary.samples} {summary.inputs}"
    return [Path(summary.run).name, *shares, *numbers, str(entry.parameters), inputs, "; ".join(summary.remarks)]


def header_of(radius: float) -> list[str]:
    """Names of the columns of `cells_of`."""
    return [
        "run", "clean, %", f"certified at {radius:g}, %", f"attacked at {radius:g}, %", "iterations", "training, s", "parameters",
        "on the first test", "remarks",
    ]  # fmt: skip


def as_text(entries: Sequence[Compared], radius: float) -> str:
    """The table as aligned text."""
    rows = [header_of(radius), *(cells_of(entry, radius) for entry in entries)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: list[str]) -> str:
        name, *numbers, remarks = row
        aligned = [cell.rjust(width) for cell, width in zip(numbers, widths[1:-1], strict=True)]
        return "  ".join([name.ljust(widths[0]), *aligned, remarks]).rstrip()

    said = differing_data(entries)
    return "\n".join([*map(line, rows), *([said] if said else [])])


def write_comparison(entries: Sequence[Compared], radius: float, folder: Path) -> Path:
    """Write ``compare.html`` with the table and the picture in it, and ``compare.svg`` and ``compare.png``.

    Args:
        entries: the runs.
        radius: of the certified and attacked accuracies, one of those that they were summarised at.
        folder: for the files; made where it is not there.

    Returns:
        The page.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    jinja2 = require("jinja2", "train")
    make_folder(folder)
    picture = _draw(entries, radius, folder)
    template = jinja2.Environment(autoescape=True).from_string(
        (resources.files("wellposed.experiments") / "compare.html.jinja").read_text(encoding="utf-8")
    )
    page = folder / "compare.html"
    content = template.render(
        header=header_of(radius), rows=[cells_of(entry, radius) for entry in entries], radius=radius,
        summaries=[entry.summary for entry in entries], differing=differing_data(entries),
        picture=base64.b64encode(picture.read_bytes()).decode(),
    )  # fmt: skip
    write_text(page, legible(content))
    return page


_AXES: tuple[tuple[str, bool, Callable[[Compared, Row], float | None]], ...] = (
    ("clean accuracy, %", False, lambda entry, row: 100 * row.clean),
    ("parameters", True, lambda entry, row: entry.parameters),
    ("iterations", False, lambda entry, row: entry.iterations),
    ("training, s", True, lambda entry, row: entry.seconds),
)


def _draw(entries: Sequence[Compared], radius: float, folder: Path) -> Path:
    """Certified and attacked accuracy over four numbers: filled and hollow points, joined for each run."""
    matplotlib = require("matplotlib", "train")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    settings: Any = {
        "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "path", "svg.hashsalt": "wellposed",
    }  # fmt: skip
    with plt.rc_context(settings):
        figure, panels = plt.subplots(2, 2, figsize=(8.0, 6.0), sharey=True, layout="constrained")
        for axes, (label, logarithmic, number) in zip(panels.flat, _AXES, strict=True):
            for place, entry in enumerate(entries):
                _points(axes, entry, entry.at(radius), number, place)
            axes.set(xlabel=label, ylim=(-3, 103))
            if logarithmic:
                axes.set_xscale("log")
        for axes in panels[:, 0]:
            axes.set_ylabel(f"accuracy at radius {radius:g}, %")
        handles, labels = panels[0, 0].get_legend_handles_labels()
        columns = max(1, min(4, _LEGEND // max(map(len, labels))))
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)
        for ending in ("png", "svg"):
            figure.savefig(folder / f"compare.{ending}", dpi=150, metadata={"Date": None} if ending == "svg" else None)
        plt.close(figure)
    return folder / "compare.svg"


def _points(axes: Any, entry: Compared, row: Row, number: Callable[[Compared, Row], float | None], place: int) -> None:
    x = number(entry, row)
    known = [100 * value for value in (row.certified, row.attacked) if value is not None]
    colour, marker = _COLOURS[place % len(_COLOURS)], _MARKERS[place // len(_COLOURS) % len(_MARKERS)]
    axes.plot([], [], marker, color=colour, label=legible(Path(entry.summary.run).name))
    if x is None:
        return
    axes.plot([x] * len(known), known, "-", color=colour, linewidth=1)
    for value, filled in ((row.certified, True), (row.attacked, False)):
        if value is not None:
            face = colour if filled else "white"
            axes.plot(x, 100 * value, marker, color=colour, markerfacecolor=face, markersize=6)

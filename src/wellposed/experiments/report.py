"""One self-contained HTML page about a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wellposed.data import Data
from wellposed.experiments import plots
from wellposed.experiments.adversarial import pairs
from wellposed.experiments.conclusions import conclusions, conclusions_on_estimates
from wellposed.experiments.pages import render
from wellposed.experiments.provenance import provenance
from wellposed.experiments.regression import ERROR_COLUMNS, SLOPE_UNITS, error_cells, read_estimate
from wellposed.experiments.regression import as_text as estimate_text
from wellposed.experiments.results import (
    NORMS,
    Attacked,
    Certified,
    is_certified,
    norms_of,
    norms_with_results,
    read_attacked,
    read_certified,
)
from wellposed.experiments.tables import COLUMNS, Summary, about_rows, as_text, bounds, cells, header, summarise
from wellposed.experiments.verification import VERDICT_COLUMNS, about_verdicts, read_verified, verdict_cells
from wellposed.experiments.verification import as_text as verified_text
from wellposed.numerics.shown import at_most
from wellposed.training.about import AboutData, about_run
from wellposed.training.files import legible, write_text
from wellposed.training.folder import RunFolder, read_metrics
from wellposed.training.run import load_run


@dataclass(frozen=True)
class Report:
    """A page and what it says.

    Attributes:
        page: its path.
        numbers: that are on it.
        text: the same as the terminal shows it.
        conclusions: two sentences.
    """

    page: Path
    numbers: dict[str, Any]
    text: str
    conclusions: tuple[str, str]


@dataclass(frozen=True)
class Table:
    """A table of a page: its heading, what it is about, its cells, and which columns are words."""

    title: str
    caption: str
    columns: Sequence[str]
    cells: Sequence[Sequence[str]]
    words: Sequence[int] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class _Said:
    """What a page says of one kind of run, before its network and data are loaded."""

    numbers: dict[str, Any]
    text: str
    header: str
    warning: str
    conclusions: tuple[str, str]
    tables: list[Table]
    method: str
    unfiled: str
    constants: list[tuple[str, float, str]]


def write_report(
    run: Path,
    radii: Sequence[float],
    data_root: Path | None,
    own_data: str | None = None,
    command: Sequence[str] = (),
) -> Report:
    """Draw the plots and write ``report.html`` into the run's folder.

    Args:
        run: the run folder; certified, attacked or both.
        radii: of the tables.
        data_root: see `load_images`.
        own_data: see `load_run`.
        command: the words of the command line, as the page's provenance; none where a program asks.

    Raises:
        CheckpointError: the run is neither certified nor attacked, or a file of it is damaged.
        CertificateError: an attack broke a certificate.
    """
    folder, about = RunFolder(run), about_run(run)
    said = _on_classes(run, radii) if about.has_logits else _on_estimates(run)
    config, data, model = load_run(run, data_root, own_data)
    page = render(
        "report.html.jinja",
        title=run.resolve().name,
        width="46rem",
        warning=said.warning,
        conclusions=said.conclusions,
        header=said.header,
        tables=said.tables,
        pictures=plots.written(run, _drawings(run, about, data, model)),
        pairs=pairs(folder.adversarial, about.classes),
        blocks=_blocks(said, model),
        provenance=provenance(run, config, data, model, command),
        config=folder.config.read_bytes().decode(errors="backslashreplace"),
    )
    write_text(folder.report, legible(page))
    return Report(folder.report, said.numbers, said.text, said.conclusions)


def _results(run: Path, norm: str) -> tuple[Certified | None, Attacked | None]:
    return (read_certified(run, norm) if is_certified(run, norm) else None), read_attacked(run, norm)


def _on_classes(run: Path, radii: Sequence[float]) -> _Said:
    summaries = [summarise(run, radii, norm) for norm in norms_with_results(run) or ["2"]]
    first = summaries[0]
    tables = [_table(run, summary) for summary in summaries]
    certified, _ = _results(run, first.norm)
    texts = [as_text(summary) for summary in summaries]
    for norm in NORMS:
        verified = read_verified(run, norm)
        if verified is not None:
            texts.append(verified_text(run, verified))
            title = f"Verified one by one, {NORMS[norm]} norm"
            tables.append(Table(title, about_verdicts(verified), VERDICT_COLUMNS, verdict_cells(verified), (4,)))
    return _Said(
        asdict(first), "\n\n".join(texts), header(first), first.warning, conclusions(first), tables,
        "" if certified is None else certified.method, "" if certified is None else certified.unfiled,
        [] if certified is None else certified.constants,
    )  # fmt: skip


def _table(run: Path, summary: Summary) -> Table:
    certified, attacked = _results(run, summary.norm)
    notes = ["clean: without a change."]
    if certified is not None:
        notes[0] += (
            " 2L rule: certified by margin/(2L); certified: by the tightest rule of the certificate. No change within the"
            " certified radius alters the prediction; solver errors are counted."
        )
    if attacked is None:
        notes.append(f"Nothing has been attacked yet: wellposed attack {run}")
    else:
        tried = ", ".join(f"{radius:.3g}" for radius in attacked.tried)
        distances = sorted(distance for distance in attacked.distances if 0.0 < distance < float("inf"))
        found = (
            f"Examples were found for {len(distances)} inputs, the nearest at {distances[0]:.3g}, half of them within "
            f"{distances[len(distances) // 2]:.3g}."
            if distances
            else "No example was found."
        )
        notes.append(
            f"attacked: broken by no attack; {attacked.steps} steps of projected gradient descent at radii {tried}; between"
            f" those radii it rests on the nearest examples found. {found}"
        )
    if certified is not None and attacked is not None:
        notes.append("Certified accuracy never exceeds attacked accuracy: this was checked input by input.")
    title = f"Accuracy per {NORMS[summary.norm]} radius, %"
    return Table(title, about_rows(summary), COLUMNS, [cells(row) for row in summary.rows], (), notes)


def _on_estimates(run: Path) -> _Said:
    norms = norms_of(RunFolder(run).slope) or ["2"]
    found = [read_estimate(run, norm) for norm in norms]
    first, units = found[0], f"inputs in {about_run(run).units}; {SLOPE_UNITS}"
    rows = [[NORMS[one.norm], *bounds(one.lower_bound, one.slope)] for one in found]
    table = Table("How steep the estimates are", units, ("norm", "at most", "at least", "ratio"), rows, (0,))
    error = Table("Error", "root mean squared error, unit of the targets", ERROR_COLUMNS, [error_cells(first)])
    return _Said(
        asdict(first), "\n".join(estimate_text(run, one) for one in found), estimate_text(run, first), first.warning,
        conclusions_on_estimates(first), [error, table], first.method, first.unfiled, [],
    )  # fmt: skip


def _drawings(run: Path, about: AboutData, data: Data, model: nn.Module) -> dict[str, plots.Drawn]:
    drawings = {}
    if about.has_logits:
        for norm in norms_with_results(run):
            name = "robustness" if norm == "2" else f"robustness-{norm}"
            drawings[name] = plots.robustness(norm, *_results(run, norm), about)
    else:
        tensors = data.as_tensors("data")
        with torch.no_grad():
            drawings["estimates"] = plots.estimates(tensors.test_x, tensors.test_y, model(tensors.test_x))
    if metrics := read_metrics(run):
        drawings["training"] = plots.training(metrics)
    solved = plots.convergence(model, data, f"run={str(run)!r}")
    return drawings if solved is None else {**drawings, "convergence": solved}


def _blocks(said: _Said, model: nn.Module) -> Table:
    """The network's blocks by name and class, with their constants where the certificate has them."""
    notes = [f"Method of the certificate: {said.method}."] if said.method else []
    if said.unfiled:
        notes.append(f"No certificate file was written: {said.unfiled}")
    elif said.method:
        notes.append(
            "A program that shares no code checks the certificate against the network as one ONNX file: wellposed verify "
            "certificate.json model.onnx"
        )
    kinds = {name: type(part).__name__ for name, part in model.named_modules()}
    if said.constants:
        cells = [
            [name, " + ".join(kinds.get(part, "–") for part in name.split(" + ")), at_most(value), reason]
            for name, value, reason in said.constants
        ]
        caption = "constants of the blocks, and what replaces those of the last ones where it is tighter"
        return Table("", caption, ("name", "class", "constant", "reason"), cells, (0, 1, 3), notes)
    counted = [
        [name, kinds[name], str(sum(map(torch.numel, part.parameters())))] for name, part in model.named_children()
    ]
    return Table("", "parts of the network", ("name", "class", "trained numbers"), counted, (0, 1), notes)

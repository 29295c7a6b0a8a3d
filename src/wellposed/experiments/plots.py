"""The pictures of a run, as PNG and SVG."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.data import Data
from wellposed.errors import require
from wellposed.experiments.iterations import certified_errors
from wellposed.experiments.pages import Picture, embedded
from wellposed.experiments.results import NORMS, Attacked, Certified
from wellposed.experiments.tables import percent
from wellposed.training.about import AboutData
from wellposed.training.files import make_folder, write_bytes

_LABELS = {"paper": "certified, margin/(2L)", "sqrt2": "certified, margin/(√2 L)", "pairs": "certified, class pairs"}
_AXIS = {"images": "pixels in [0, 1]"}  # other inputs are in the units of their data
_COLOURS = {"paper": "#9aa5b1", "sqrt2": "#5b8db8", "pairs": "#1f5f99"}
_INPUTS = 200  # whose solves are shown
_TOLERANCES = tuple(10.0**-k for k in range(1, 7))


@dataclass(frozen=True)
class Drawn:
    """A picture before it is written: its heading, its numbers in words, and matplotlib's figure."""

    title: str
    alt: str
    figure: Any


def panels(rows: int = 1, columns: int = 1, **options: Any) -> tuple[Any, Any]:
    """A figure of matplotlib that nothing else knows, so that it goes where it is dropped, and its axes.

    Args:
        rows: of axes.
        columns: of axes.
        options: of the figure, as ``figsize`` and ``layout``; ``sharey`` is one of the axes'.
    """
    matplotlib = require("matplotlib", "train")
    from matplotlib.figure import Figure

    settings = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "path"}
    matplotlib.rcParams.update(settings)
    shared = options.pop("sharey", False)
    figure = Figure(**options)
    return figure, figure.subplots(rows, columns, sharey=shared)


def written(run: Path, drawings: dict[str, Drawn]) -> list[Picture]:
    """Write pictures into ``plots/`` of a run.

    Args:
        run: the run folder.
        drawings: by the names of their files.
    """
    folder = run / "plots"
    make_folder(folder)
    pictures = []
    for name, drawn in drawings.items():
        for suffix in ("png", "svg"):
            content = io.BytesIO()
            drawn.figure.savefig(content, format=suffix, dpi=150, bbox_inches="tight")
            write_bytes(folder / f"{name}.{suffix}", content.getvalue())
        pictures.append(Picture(drawn.title, drawn.alt, embedded(content.getvalue(), "svg+xml")))
    return pictures


def robustness(norm: str, certified: Certified | None, attacked: Attacked | None, about: AboutData) -> Drawn:
    """Certified and attacked accuracy over the radius; one of both may be missing.

    Args:
        norm: of perturbations.
        certified: the certified radii.
        attacked: the distances of adversarial examples.
        about: the data.
    """
    figure, axes = panels(figsize=(6.4, 3.8))
    limit = None if attacked is None else len(attacked.distances)
    finite = [] if certified is None else [r for r in certified.best if r < float("inf")]
    reach = 1.3 * max([*finite, *([] if attacked is None else attacked.tried), 0.1 * about.scale])
    grid = torch.linspace(1e-9 * reach, reach, 240, device="cpu").tolist()
    middle, said = grid[len(grid) // 4], []
    if attacked is not None:
        shares = {r: attacked.accuracy_tried(r) for r in grid}
        tried = {r: 100 * share for r, share in shares.items() if share is not None}
        axes.plot(list(tried), list(tried.values()), color="#b5423c", label="under attack (upper bound)")
        said.append(f"{percent(shares[middle])} % under attack")
    for rule in () if certified is None else certified.radii:
        assert certified is not None  # or there are no rules
        axes.plot(
            grid, [100 * certified.accuracy(r, rule, limit) for r in grid], color=_COLOURS[rule], label=_LABELS[rule]
        )
        said.append(f"{percent(certified.accuracy(middle, rule, limit))} % {_LABELS[rule]}")
    unit = _AXIS.get(about.inputs, about.units)
    axes.set(xlabel=f"{NORMS[norm]} radius, {unit}", ylabel="accuracy, %", ylim=(0, 101), xlim=(0, reach))
    axes.legend(frameon=False, fontsize=9)
    alt = f"Accuracy over the {NORMS[norm]} radius; at {middle:.3g}: {', '.join(said)}."
    return Drawn(f"Certified and attacked accuracy, {NORMS[norm]} norm", alt, figure)


def training(metrics: list[dict[str, float]]) -> Drawn:
    """Loss and error per epoch.

    Args:
        metrics: of every epoch, see `read_metrics`.
    """
    figure, axes = panels(figsize=(6.4, 3.2))
    losses = [(row["epoch"] + 1, row["train/loss"]) for row in metrics]
    axes.plot(*zip(*losses, strict=True), color="#5b8db8", label="training loss")
    axes.set(xlabel="epoch", ylabel="loss", yscale="log")
    lines, top = list(axes.get_lines()), 0.0
    right = axes.twinx()
    for part, colour in (("validation", "#b5423c"), ("test", "#7a7a7a")):  # the latter of the epoch that was kept, too
        for score, share in (("accuracy", True), ("mean_squared_error", False)):
            known = [(row["epoch"] + 1, row[f"{part}/{score}"]) for row in metrics if f"{part}/{score}" in row]
            if not known:
                continue
            values = [100 * (1 - value) if share else value for _, value in known]
            label = f"{part} error, %" if share else f"{part} mean squared error"
            lines += right.plot([epoch for epoch, _ in known], values, ".-", color=colour, label=label)
            if share:
                top = max(top, *values)
                right.set(ylabel="error, %", ylim=(0, 1.1 * top or 1.0))
            else:  # of targets as they are, where the loss is of standardised ones
                right.set(ylabel="mean squared error", yscale="log")
    right.spines["right"].set_visible(True)
    if not right.get_lines():
        right.set_visible(False)
    axes.legend(
        lines, [line.get_label() for line in lines], frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1.0),
        ncols=2,
    )  # fmt: skip
    (first, most), (last, least) = losses[0], losses[-1]
    alt = f"Training loss from {most:.3g} in epoch {first:g} to {least:.3g} in epoch {last:g}."
    return Drawn("Training", alt, figure)


def convergence(model: nn.Module, data: Data, argument: str) -> Drawn | None:
    """Certified errors of a model's first solves at test inputs, against the tolerances asked for; None without any.

    Args:
        model: in eval mode.
        data: its data.
        argument: how the data are called in errors.
    """
    found = certified_errors(model, first_inputs(data, argument, _INPUTS), _TOLERANCES)
    if not found:
        return None
    steps, bounds = [count for count, _ in found], [bound for _, bound in found]
    figure, axes = panels(figsize=(6.4, 3.2))
    axes.plot(steps, bounds, "o-", color="#1f5f99", label="largest certified relative error")
    axes.plot(steps, _TOLERANCES, ":", color="#9aa5b1", label="tolerance asked for")
    count = min(_INPUTS, len(data.labels_of("test")))
    axes.set(xlabel=f"iterations (mean over {count} test {data.inputs})", yscale="log", ylabel="relative error")
    axes.legend(frameon=False, fontsize=9)
    alt = (
        f"Largest certified relative error of the first solve: {bounds[0]:.3g} after {steps[0]:.3g} iterations, "
        f"{bounds[-1]:.3g} after {steps[-1]:.3g}."
    )
    return Drawn("The solver keeps its word: certified error against iterations", alt, figure)


def first_inputs(data: Data, argument: str, count: int) -> Any:
    """The first test inputs, as a model takes them.

    Args:
        data: what they are of.
        argument: how it is called in errors.
        count: how many at most.
    """
    if data.inputs == "graphs":
        graphs = data.as_graphs(argument)
        return graphs.batch(graphs.test[:count])[0]
    return data.as_tensors(argument).test_x[:count]


def estimates(x: Tensor, targets: Tensor, found: Tensor) -> Drawn:
    """Estimates beside targets: over the input where that is one number, else over the targets.

    Args:
        x: inputs, shape (samples, ...).
        targets: shape (samples, outputs).
        found: the estimates, of the same shape.
    """
    figure, axes = panels(figsize=(6.4, 3.8))
    if x[0].numel() == 1:
        order = x.flatten().argsort()
        axes.plot(x.flatten()[order], targets[order, 0], color="#9aa5b1", label="target")
        axes.plot(x.flatten()[order], found[order, 0], color="#1f5f99", label="estimate")
        axes.set(xlabel="input", ylabel="unit of the targets")
    else:
        axes.plot(targets.flatten(), found.flatten(), ".", color="#1f5f99", markersize=4, label="test inputs")
        ends = [float(targets.min()), float(targets.max())]
        axes.plot(ends, ends, ":", color="#9aa5b1", label="no error")
        axes.set(xlabel="target", ylabel="estimate (unit of the targets)")
    axes.legend(frameon=False, fontsize=9)
    alt = (
        f"Targets between {float(targets.min()):.3g} and {float(targets.max()):.3g}, estimates between "
        f"{float(found.min()):.3g} and {float(found.max()):.3g}."
    )
    return Drawn("Estimates of the test inputs", alt, figure)

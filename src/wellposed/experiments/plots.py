"""The pictures of a run, as PNG and SVG."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.errors import CheckpointError, require
from wellposed.experiments.results import Attacked, Certified
from wellposed.layers.implicit_layer import implicit_layers
from wellposed.solvers.solution import Tolerance
from wellposed.training.about import AboutData, about_run
from wellposed.training.files import make_folder, read_json, write_bytes
from wellposed.training.folder import RunFolder, read_metrics
from wellposed.training.run import load_classifier_run

_LABELS = {"paper": "certified, margin/(2L)", "sqrt2": "certified, margin/(√2 L)", "pairs": "certified, class pairs"}
_AXIS = {"images": "pixels in [0, 1]"}  # other inputs are in the units of their data
_COLOURS = {"paper": "#9aa5b1", "sqrt2": "#5b8db8", "pairs": "#1f5f99"}


def draw(
    run: Path, certified: Certified, attacked: Attacked | None, data_root: Path | None, own_data: str | None = None
) -> dict[str, Path]:
    """Draw every picture of a run into ``plots/``; the SVG files by name."""
    matplotlib = require("matplotlib", "train")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "path"})
    folder = run / "plots"
    make_folder(folder)
    figures = {"robustness": _robustness(plt, certified, attacked, about_run(run))}
    if metrics := read_metrics(run):
        figures["training"] = _training(plt, metrics)
    _, data, model = load_classifier_run(run, data_root, own_data)
    if any(True for _ in implicit_layers(model)):
        figures["convergence"] = _convergence(plt, model, data.test_x[:200])
    examples = RunFolder(run).adversarial
    if examples.exists() and (shown := _examples(examples)):
        figures["adversarial"] = _adversarial(plt, shown)
    for name, figure in figures.items():
        for suffix in ("png", "svg"):
            picture = io.BytesIO()
            figure.savefig(picture, format=suffix, dpi=150, bbox_inches="tight")
            write_bytes(folder / f"{name}.{suffix}", picture.getvalue())
        plt.close(figure)
    return {name: folder / f"{name}.svg" for name in figures}


def _robustness(plt: Any, certified: Certified, attacked: Attacked | None, about: AboutData) -> Any:
    figure, axes = plt.subplots(figsize=(6.4, 3.8))
    limit = None if attacked is None else len(attacked.distances)
    finite = [r for r in certified.best if r < float("inf")]
    reach = 1.3 * max([*finite, *([] if attacked is None else attacked.tried), 0.1 * about.scale])
    grid = torch.linspace(1e-9 * reach, reach, 240, device="cpu").tolist()
    if attacked is not None:
        values = [100 * attacked.accuracy(r) for r in grid]
        axes.plot(grid, values, color="#b5423c", label="under attack (upper bound)")
    for rule in certified.radii:
        values = [100 * certified.accuracy(r, rule, limit) for r in grid]
        axes.plot(grid, values, color=_COLOURS[rule], label=_LABELS[rule])
    axes.set(
        xlabel=f"Euclidean radius, {_AXIS.get(about.inputs, about.units)}",
        ylabel="accuracy, %",
        ylim=(0, 101),
        xlim=(0, reach),
    )
    axes.legend(frameon=False, fontsize=9)
    return figure


def _training(plt: Any, metrics: list[dict[str, float]]) -> Any:
    figure, axes = plt.subplots(figsize=(6.4, 3.2))
    epochs = [row["epoch"] + 1 for row in metrics]
    axes.plot(epochs, [row["train/loss"] for row in metrics], color="#5b8db8", label="training loss")
    axes.set(xlabel="epoch", ylabel="loss", yscale="log")
    right = axes.twinx()
    right.spines["right"].set_visible(True)
    for part, colour in (
        ("validation", "#b5423c"),
        ("test", "#7a7a7a"),
    ):  # the latter for graphs and the epoch that was kept
        known = [row for row in metrics if f"{part}/accuracy" in row]
        if known:
            errors = [100 * (1 - row[f"{part}/accuracy"]) for row in known]
            right.plot([row["epoch"] + 1 for row in known], errors, ".-", color=colour, label=f"{part} error, %")
    right.set(ylabel="error, %", ylim=(0, None))
    lines = axes.get_lines() + right.get_lines()
    axes.legend(lines, [line.get_label() for line in lines], frameon=False, fontsize=9)
    return figure


@torch.no_grad()
def _convergence(plt: Any, model: nn.Module, images: Tensor) -> Any:
    """Certified error bound of the first implicit layer's solves at images, against the tolerance asked for."""
    layer, value = next(implicit_layers(model)), images
    for block in itertools.takewhile(lambda part: part is not layer, model.children()):
        value = block(value)
    figure, axes = plt.subplots(figsize=(6.4, 3.2))
    tolerances = [10.0**-k for k in range(1, 7)]
    steps, bounds = [], []
    for rtol in tolerances:
        layer.tolerance = Tolerance(rtol, 0.0)
        solution = layer.solve(value)
        assert solution.error_bound is not None  # solve() always certifies
        steps.append(float(solution.steps.double().mean()))
        bounds.append(float((solution.error_bound / solution.value.norm(dim=1).clamp_min(1e-30)).max()))
    axes.plot(steps, bounds, "o-", color="#1f5f99", label="largest certified relative error")
    axes.plot(steps, tolerances, ":", color="#9aa5b1", label="tolerance asked for")
    axes.set(xlabel=f"iterations (mean over {len(images)} test inputs)", yscale="log", ylabel="relative error")
    axes.legend(frameon=False, fontsize=9)
    return figure


def _examples(path: Path) -> list[dict[str, Any]]:
    """What attacking a run noted of the nearest adversarial examples.

    Raises:
        CheckpointError: the file is damaged.
    """
    content = read_json(path, f"run `wellposed attack {path.parent}`")
    found = content.get("examples") if isinstance(content, dict) else content  # a list, before files had digests
    keys = {"index", "distance", "label", "prediction", "image", "adversarial"}
    if not isinstance(found, list) or not all(isinstance(entry, dict) and set(entry) == keys for entry in found):
        raise CheckpointError(
            f"{path}: corrupt (not what an attack writes); run `wellposed attack {path.parent}` again"
        )
    return found


def _adversarial(plt: Any, shown: list[dict[str, Any]]) -> Any:
    figure, rows = plt.subplots(2, len(shown), figsize=(1.5 * len(shown), 3.4), squeeze=False)
    for column, entry in enumerate(shown):
        for axis, key in zip(rows[:, column], ("image", "adversarial"), strict=True):
            axis.imshow(entry[key], cmap="gray_r", vmin=0, vmax=1)
            axis.set_axis_off()
        rows[0, column].set_title(f"{entry['label']}", fontsize=10)
        rows[1, column].set_title(f"{entry['prediction']} at {entry['distance']:.2f}", fontsize=10)
    figure.suptitle("test images and their nearest adversarial examples found", fontsize=10)
    return figure

"""Figure 7: product bounds of unrolled splitting iterations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from wellposed.comparison.unrolled import unrolled
from wellposed.numerics.verified import spectral_norm_upper_bound
from wellposed.reproduction.cell import Cell, Record, Workspace
from wellposed.reproduction.networks import settings_of, trained
from wellposed.reproduction.papers.monotone.dense import dense_config
from wellposed.reproduction.papers.monotone.showing import SEEDS, grouped, mean_curve, neither_published
from wellposed.reproduction.view import Figure, Published, Quantity, Table, View, published_range
from wellposed.training.config import TrainConfig
from wellposed.training.run import load_image_run

ALGORITHMS = {"forward_backward": "forward–backward", "peaceman_rachford": "Peaceman–Rachford"}
STEPS = tuple(2.0**-k for k in range(10, -1, -1))
TOLERANCE = 1e-3  # of the relative change, as in the paper
LIMIT = 2000  # iterations
IMAGES = 100  # that the stopping rule is about
WIDTH, M = 40, 1.0
SHOWN = 30.0  # logarithm up to which the picture goes
PUBLISHED = Published(5.0, "Section 5.1, all α", 0.5, upto=13.0)


def unrolled_bounds(
    workspace: Workspace, *, config: dict[str, Any], algorithm: str, steps: Sequence[float], images: int
) -> dict[str, Any]:
    """Unroll the iterations of a dense monotone network, as many as their change needs to fall below the tolerance.

    Returns:
        For each step ``depth``, None where the change did not fall in time, and ``log10_bound`` of the product of norms with the
        head's; and ``log10_direct`` of ‖U‖‖W_o‖/m; all per normalised pixel.
    """
    run = trained(workspace, TrainConfig.from_dict(config))
    _, data, model = load_image_run(run, workspace.data_root)
    parts: list[Any] = list(model.children())
    normalise, flatten, layer, head = parts
    x = flatten(normalise(data.test_x[:images])).detach().double()
    head_norm = spectral_norm_upper_bound(head.weight.detach().double())
    depths, bounds = [], []
    for step in steps:
        network = unrolled(layer, algorithm, step)
        depth = network.depth_within(x, TOLERANCE, LIMIT)
        depths.append(depth)
        bounds.append(None if depth is None else network.log10_bound(depth) + math.log10(head_norm))
    driven = spectral_norm_upper_bound(layer.injection.matrix().weight)
    return {
        "depth": depths,
        "log10_bound": bounds,
        "log10_direct": math.log10(driven * head_norm / config["family"]["m"]),
    }


def cells(quick: bool) -> list[Cell]:
    """Both algorithms on the networks of Figure 1b with h = 40 and m = 1."""
    seeds, steps, images = ((0,), STEPS[:-1:4], 20) if quick else (SEEDS, STEPS, IMAGES)
    return [
        Cell(
            unrolled_bounds,
            {
                "config": settings_of(dense_config(WIDTH, M, seed, quick=quick)),
                "algorithm": algorithm,
                "steps": list(steps),
                "images": images,
            },
        )
        for algorithm in ALGORITHMS
        for seed in seeds
    ]


def view(records: Sequence[Record]) -> View:
    """Logarithms of the bounds over α."""
    rows, lines = [], []
    for algorithm, group in grouped(records, lambda record: record.settings["algorithm"]).items():
        name = ALGORITHMS[algorithm]
        steps = group[0].settings["steps"]
        reached = [
            place for place in range(len(steps)) if all(record.measured["depth"][place] is not None for record in group)
        ]
        for place, step in enumerate(steps):
            setting = f"{name}, α = {step:g}"
            for key, words in (("depth", "iterations"), ("log10_bound", "log₁₀ of the product of norms")):
                values = [record.measured[key][place] for record in group] if place in reached else []
                remark = "" if place in reached else f"The change stayed above the tolerance for {LIMIT} iterations."
                rows.append(Quantity(setting, words, values, "lower", None, remark))
        curves = [[record.measured["log10_bound"][place] for place in reached] for record in group]
        of_all = [value for curve in curves for value in curve]
        published = replace(PUBLISHED, incomparable=neither_published(steps, of_all))
        for extreme, words in ((min, "least"), (max, "greatest")):
            values = [extreme(curve) for curve in curves]
            rows.append(
                Quantity(f"{name}, all α", f"log₁₀ of the product of norms, {words}", values, "lower", published)
            )
        lines.append(mean_curve(name, [steps[place] for place in reached], curves))
    direct = [[record.measured["log10_direct"]] * len(STEPS) for record in records]
    rows.append(
        Quantity(
            "the layer itself",
            "log₁₀ of ‖U‖‖W_o‖/m",
            [record.measured["log10_direct"] for record in records[: len(records) // len(ALGORITHMS)]],
            "lower",
        )
    )
    lines.append(mean_curve("‖U‖‖W_o‖/m", STEPS, direct))
    least = rows[-1].mean
    below = [line.label for line in lines[:-1] if any(value < least for value in line.y)]
    compared = (
        f"where that of {' and '.join(below)} is below ‖U‖‖W_o‖/m, the rule stopped before the iterations were the layer's"
        if below
        else "none is below ‖U‖‖W_o‖/m of the layer itself"
    )
    beyond = [f"{line.label} up to {max(line.y):.3g}" for line in lines if max(line.y, default=0.0) > SHOWN]
    sentence = (
        "Products of the norms of unrolled splitting iterations over the step α, with as many iterations as the published "
        f"stopping rule asks for: {compared}." + (f" Beyond the picture goes {' and '.join(beyond)}." if beyond else "")
    )
    lines.append(published_range("all α", STEPS, PUBLISHED))
    y = "log₁₀ of the bound per normalised pixel"
    picture = Figure("monotone-fig7", sentence, "α", y, lines, logarithmic_x=True, upto=SHOWN if beyond else None)
    return [Table("Unrolled iterations", rows), picture]

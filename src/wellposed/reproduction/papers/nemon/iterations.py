"""The average iteration beside forward–backward, Peaceman–Rachford and the elimination of the diagonal.

Eliminating the diagonal, which this library does by default, is forward–backward with the step 1/(1 − W_ii) in every coordinate.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from wellposed.layers.implicit_layer import implicit_layers
from wellposed.reproduction.cell import Cell, Record, Workspace
from wellposed.reproduction.networks import trained
from wellposed.reproduction.papers.nemon.networks import mnist
from wellposed.reproduction.view import Figure, Quantity, Series, Table, View
from wellposed.solvers import Averaged, ForwardBackward, PeacemanRachford, Solver
from wellposed.solvers.solution import Tolerance
from wellposed.training.config import TrainConfig
from wellposed.training.run import load_image_run

TOLERANCES = (1e-2, 1e-3, 1e-4, 1e-6, 1e-8)
SOLVERS = (
    "average iteration", "forward–backward, one step size", "Peaceman–Rachford", "diagonal eliminated",
)  # fmt: skip
_MOST = 20000


@torch.no_grad()
def iterations(
    workspace: Workspace, *, config: dict[str, Any], images: int, tolerances: Sequence[float]
) -> dict[str, Any]:
    """Iterations and time of each algorithm until a relative error is proved, on test images, in float64.

    Returns:
        By algorithm: ``iterations``, means over images, and ``milliseconds`` of CPU time for an image, one for each tolerance.
    """
    run = trained(workspace, TrainConfig.from_dict(config))
    _, data, loaded = load_image_run(run, workspace.data_root)
    model: Any = loaded.double()
    layer: Any = next(implicit_layers(model))
    flat = model[:2](data.test_x[:images].double())
    step = layer.guarantee().suggested_step()
    solvers: dict[str, Solver] = dict(
        zip(SOLVERS, (Averaged(), ForwardBackward(step=step), PeacemanRachford(), ForwardBackward()), strict=True)
    )
    layer.max_steps, layer.on_failure = _MOST, "raise"
    found = {}
    for name, solver in solvers.items():
        layer.solver = solver
        rows: dict[str, list[float]] = {"iterations": [], "milliseconds": []}
        for tolerance in tolerances:
            layer.tolerance = Tolerance(tolerance, 0.0)
            begun = time.process_time()
            solution = layer.solve(flat)
            rows["milliseconds"].append(1e3 * (time.process_time() - begun) / images)
            rows["iterations"].append(float(solution.steps.double().mean()))
        found[name] = rows
    return found


def cells(quick: bool) -> list[Cell]:
    """Networks with μ ≤ 0 and with μ ≤ 0.95, without a penalty."""
    bounds, tolerances = ((0.0,), TOLERANCES[:3]) if quick else ((0.0, 0.95), TOLERANCES)
    return [
        Cell(iterations, {
            "config": mnist(0.0, seed=0, quick=quick, mu=mu), "images": 100 if quick else 500, "tolerances": tolerances,
        })
        for mu in bounds
    ]  # fmt: skip


def view(records: Sequence[Record]) -> View:
    """Iterations and time over the tolerance."""
    table, counts, times = [], [], []
    for record in records:
        setting = f"μ ≤ {record.settings['config']['family']['mu']:g}"
        tolerances = list(record.settings["tolerances"])
        for name, rows in record.measured.items():
            counts.append(Series(f"{setting}, {name}", tolerances, rows["iterations"]))
            times.append(Series(f"{setting}, {name}", tolerances, rows["milliseconds"]))
            table += [
                Quantity(
                    setting, f"{name}: {words} to a relative error of {tolerances[-1]:g}", [rows[key][-1]], "lower"
                )
                for key, words in (("iterations", "iterations"), ("milliseconds", "CPU milliseconds an image"))
            ]
    axis = "relative error that is proved"
    return [
        Table("Iterations and time", table),
        Figure(
            "nemon-iterations", "Iterations until an error is proved, by algorithm.", axis,
            "iterations", counts, True, True,
        ),
        Figure(
            "nemon-times", "CPU time of an image until an error is proved, proof included.", axis, "CPU milliseconds an image",
            times, True, True,
        ),
    ]  # fmt: skip

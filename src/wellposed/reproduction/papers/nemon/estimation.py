"""Function estimation: error against the certified ℓ∞ slope over λ, and the functions that were learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from wellposed.data import load_vectors
from wellposed.experiments.regression import certify_estimates
from wellposed.reproduction.cell import Cell, Record, Workspace
from wellposed.reproduction.measurements import by_seed
from wellposed.reproduction.networks import settings_of, trained
from wellposed.reproduction.papers.nemon.networks import SEEDS, label
from wellposed.reproduction.view import Figure, Quantity, Series, Table, View
from wellposed.training.config import TrainConfig
from wellposed.training.run import load_run

DATA = "function-estimation"
PENALTIES = (0.0, 1e-4, 1e-3, 3e-3, 1e-2)
BASELINES: dict[str, dict[str, Any]] = {
    "mondeq": {"name": "mondeq", "m": 1.0}, "feedforward": {"name": "feedforward", "depth": 2},
}  # fmt: skip
_SHOWN = 10  # every so many test inputs, of the curves


@torch.no_grad()
def estimated_function(workspace: Workspace, *, config: dict[str, Any]) -> dict[str, Any]:
    """Train one network to estimate the function; its error, its certified slope and some of its values."""
    run = trained(workspace, TrainConfig.from_dict(config))
    found = certify_estimates(run, data_root=workspace.data_root, limit=None, done=lambda *_: None, norm="inf")
    _, data, model = load_run(run, workspace.data_root)
    x = data.as_vectors(f"run={str(run)!r}").test_x[::_SHOWN]
    return {
        "error": found.error, "slope": found.slope, "lower_bound": found.lower_bound, "x": x[:, 0].tolist(),
        "values": model(x)[:, 0].tolist(),
    }  # fmt: skip


def cells(quick: bool) -> list[Cell]:
    """Networks over λ, then the baselines."""
    penalties, baselines = (PENALTIES[::2][:2], ()) if quick else (PENALTIES, tuple(BASELINES))
    families = [({"name": "nemon", "mu": 0.9}, penalty) for penalty in penalties]
    families += [(BASELINES[name], 0.0) for name in baselines]
    return [
        Cell(estimated_function, {"config": _settings(family, penalty, seed, quick)})
        for family, penalty in families
        for seed in ((0,) if quick else SEEDS)
    ]


def _settings(family: dict[str, Any], penalty: float, seed: int, quick: bool) -> dict[str, Any]:
    penalised = {"lipschitz_penalty": penalty, "penalty_norm": "inf"} if family["name"] == "nemon" else {}
    content = {
        "family": {**family, "width": 50}, "data": DATA, "epochs": 30 if quick else 200, "learning_rate": 0.02, "seed": seed,
        "validation": 0.0, **penalised,
    }  # fmt: skip
    return settings_of(TrainConfig.from_dict(content))


def name_of(config: dict[str, Any]) -> str:
    """What tables call a network."""
    names = {"mondeq": "monDEQ", "feedforward": "two explicit layers"}
    return names.get(config["family"]["name"]) or f"NEMON, {label(config)}"


def view(records: Sequence[Record]) -> View:
    """Errors and slopes, and the functions."""
    table, groups = [], by_seed(records)
    for group in groups:
        name = name_of(group[0].settings["config"])
        for words, key in (
            ("root mean squared error", "error"), ("ℓ∞ slope, at most", "slope"), ("ℓ∞ slope, at least", "lower_bound"),
        ):  # fmt: skip
            table.append(Quantity(name, words, [record.measured[key] for record in group], "lower"))
    penalised = [group for group in groups if group[0].settings["config"]["family"]["name"] == "nemon"]
    means = {
        key: [sum(record.measured[key] for record in group) / len(group) for group in penalised]
        for key in ("error", "slope", "lower_bound")
    }
    data = load_vectors(DATA)
    curves = [Series("the function", data.test_x[::_SHOWN, 0].tolist(), data.test_y[::_SHOWN, 0].tolist())]
    curves += [
        Series(name_of(group[0].settings["config"]), group[0].measured["x"], group[0].measured["values"])
        for group in penalised
    ]
    return [
        Table("Function estimation", table),
        Figure(
            "nemon-estimation", "Error of function estimation against the ℓ∞ slope, by λ.",
            "ℓ∞ slope", "root mean squared error",
            [_by_slope("certified", means["slope"], means["error"]), _by_slope("at least", means["lower_bound"], means["error"])],
        ),
        Figure(
            "nemon-functions", "The function, and what networks with different λ make of it.", "input", "output", curves,
        ),
    ]  # fmt: skip


def _by_slope(name: str, slopes: Sequence[float], errors: Sequence[float]) -> Series:
    """Errors over slopes, the steepest last."""
    points = sorted(zip(slopes, errors, strict=True))
    return Series(name, [slope for slope, _ in points], [error for _, error in points])

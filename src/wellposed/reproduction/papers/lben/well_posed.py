"""Well-posedness under less restrictive conditions: of trained networks, and of random matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from wellposed.certificates.refutation import refuted
from wellposed.certificates.well_posedness import well_posedness
from wellposed.guarantee.metric_search import find_metric
from wellposed.layers.implicit_layer import implicit_layers
from wellposed.reproduction.cell import Cell, Record, Workspace
from wellposed.reproduction.measurements import by_seed
from wellposed.reproduction.networks import facts, trained
from wellposed.reproduction.papers.lben.bounds import SOURCE
from wellposed.reproduction.papers.lben.networks import LIMIT_QUICK, MONDEQ, SEEDS, UNCONSTRAINED, label, settings
from wellposed.reproduction.view import Figure, Published, Quantity, Series, Table, View
from wellposed.training.config import TrainConfig
from wellposed.training.run import load_run

SCALES = tuple(round(0.1 * k, 1) for k in range(1, 13))
CONDITIONS = {
    "monotone": "I − W strongly monotone (monDEQ)",
    "row sums": "‖W‖_∞ < 1",
    "absolute values": "spectral radius of |W| < 1 (El Ghaoui et al.)",
    "log norm": "μ_∞ < 1 in some weights (NEMON)",
    "metric": "strongly monotone in some diagonal metric (LBEN)",
    "not refuted": "not refuted",
}
_ERRORS = {"γ = ∞": 2.03, "monDEQ": 2.04, "unconstrained": 2.08}


def conditions_of(matrix: Tensor) -> dict[str, bool]:
    """Which conditions for one equilibrium of every input a W fulfils, by those that are evaluated in float64 alone.

    Args:
        matrix: W, float64, shape (n, n).
    """
    away = torch.eye(len(matrix), dtype=torch.float64, device="cpu") - 0.5 * (matrix + matrix.T)
    majorant = matrix.abs() - torch.diag(matrix.diagonal().abs()) + torch.diag(matrix.diagonal())
    return {
        "monotone": float(torch.linalg.eigvalsh(away).amin()) > 0.0,
        "row sums": float(matrix.abs().sum(1).amax()) < 1.0,
        "absolute values": float(torch.linalg.eigvals(matrix.abs()).abs().amax()) < 1.0,
        "log norm": float(torch.linalg.eigvals(majorant).real.amax()) < 1.0,
    }


def random_matrices(workspace: Workspace, *, scale: float, size: int, count: int, seed: int) -> dict[str, Any]:
    """Shares in % of random matrices ``scale``·D G D⁻¹/√n, G Gaussian and D log-normal, that fulfil each condition."""
    generator = torch.Generator().manual_seed(seed)
    found = dict.fromkeys(CONDITIONS, 0)
    for _ in range(count):
        gauss = torch.randn(size, size, generator=generator, dtype=torch.float64, device="cpu")
        scaling = torch.randn(size, generator=generator, dtype=torch.float64, device="cpu").exp()
        matrix = scale / size**0.5 * scaling[:, None] * gauss / scaling
        certified = find_metric(matrix) is not None
        held = {**conditions_of(matrix), "metric": certified, "not refuted": certified or not refuted(matrix)[0]}
        found = {name: value + held[name] for name, value in found.items()}
    return {name: 100.0 * value / count for name, value in found.items()}


def trained_network(workspace: Workspace, *, config: dict[str, Any], limit: int | None) -> dict[str, Any]:
    """Train one network and decide whether its equilibria are unique."""
    run = trained(workspace, TrainConfig.from_dict(config))
    layer: Any = next(implicit_layers(load_run(run, workspace.data_root)[2]))
    verdict = well_posedness(layer)
    matrix = layer.operator().dense().detach().double().cpu()
    witness = verdict.witness
    return {
        **facts(workspace, run, limit), **conditions_of(matrix), "outcome": verdict.outcome,
        "metric": verdict.outcome == "certified", "not refuted": verdict.outcome != "refuted",
        "apart": None if witness is None else float((witness.first - witness.second).norm()),
    }  # fmt: skip


def network_cells(quick: bool) -> list[Cell]:
    """Networks without a Lipschitz bound, then random matrices by scale."""
    kinds, seeds = ((0.0, UNCONSTRAINED), (0,)) if quick else ((0.0, MONDEQ, UNCONSTRAINED), SEEDS)
    scales, count = ((0.3, 0.6, 0.9), 8) if quick else (SCALES, 200)
    limit = LIMIT_QUICK if quick else None
    return [
        *(
            Cell(trained_network, {"config": settings(kind, seed=seed, quick=quick), "limit": limit})
            for kind in kinds
            for seed in seeds
        ),
        *(Cell(random_matrices, {"scale": scale, "size": 10, "count": count, "seed": 0}) for scale in scales),
    ]


def conditions(records: Sequence[Record]) -> View:
    """Errors and conditions of networks, and shares of random matrices over their scale."""
    networks = [record for record in records if record.is_of(trained_network)]
    table = []
    for group in by_seed(networks):
        name = label(group[0].settings["config"])
        published = Published(_ERRORS[name], SOURCE, 0.005)
        apart = [record.measured["apart"] for record in group if record.measured["apart"] is not None]
        remark = f"Refuted by two equilibria of one input, up to {max(apart):.3g} apart." if apart else ""
        table.append(
            Quantity(name, "test error, %", [r.measured["test_error"] for r in group], "lower", published, remark)
        )
        table += [
            Quantity(name, f"{words}, % of networks", [100.0 * record.measured[key] for record in group], "equal")
            for key, words in CONDITIONS.items()
        ]
    drawn = [record for record in records if record.is_of(random_matrices)]
    scales = [record.settings["scale"] for record in drawn]
    series = [Series(words, scales, [record.measured[key] for record in drawn]) for key, words in CONDITIONS.items()]
    return [
        Table("Networks without a Lipschitz bound", table),
        Figure("lben-well-posed", _shares_said(drawn), "scale of the matrix", "share, %", series),
    ]


def _shares_said(drawn: Sequence[Record]) -> str:
    """What the shares of random matrices are, and how that of the metric compares with the others at every scale."""
    others = [key for key in CONDITIONS if key not in ("metric", "not refuted")]
    most = {
        key: max((record.measured["metric"] - record.measured[key] for record in drawn), default=0.0) for key in others
    }
    beaten = [
        CONDITIONS[key] for key in others if any(record.measured[key] > record.measured["metric"] for record in drawn)
    ]
    open_ = max((record.measured["not refuted"] - record.measured["metric"] for record in drawn), default=0.0)
    compared = (
        f"here fewer by the metric of the LBEN paper than by {', '.join(beaten)}"
        if beaten
        else f"at no scale fewer by the metric of the LBEN paper than by another one, and up to {max(most.values()):.3g} % more"
    )
    return (
        f"Share of badly scaled random matrices for which each condition proves that equilibria are unique: {compared}; up to "
        f"{open_:.3g} % are neither proved by the metric nor refuted."
    )

"""Networks of the error and width studies under other trainings: the paper's schedule goes down by steps, over more epochs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from wellposed.reproduction.cell import Cell, Record
from wellposed.reproduction.measurements import image_classifier
from wellposed.reproduction.networks import settings_of
from wellposed.reproduction.other_trainings import Explained, table_of
from wellposed.reproduction.papers.lben.bounds import GAMMAS, WIDTHS, bounds, widths
from wellposed.reproduction.papers.lben.networks import LIMIT_QUICK, MONDEQ, RADII, WIDTH, mnist
from wellposed.reproduction.view import View

TRAININGS = ((5, 3e-3), (15, 1e-3))  # epochs, peak of the learning rate
OF_WIDTHS = 1.0  # γ of the width study


def cells(quick: bool) -> list[Cell]:
    """Networks of every γ, without a bound, monotone ones, and those of every width, under every training, with one seed."""
    trainings = ((1, 1e-3),) if quick else TRAININGS
    kinds: list[tuple[float | str, int]] = [(OF_WIDTHS, WIDTH)]
    if not quick:
        kinds = [(kind, WIDTH) for kind in (*GAMMAS, 0.0, MONDEQ)]
        kinds += [(OF_WIDTHS, width) for width in WIDTHS if width != WIDTH]
    configs = [mnist(kind, seed=0, quick=quick, width=width) for kind, width in kinds]
    limit = LIMIT_QUICK if quick else None
    return [
        Cell(
            image_classifier,
            {
                "config": settings_of(replace(config, epochs=epochs, learning_rate=rate)),
                "radii": RADII, "limit": limit,
            },
        )
        for epochs, rate in trainings for config in configs
    ]  # fmt: skip


def figures() -> dict[str, Explained]:
    """The studies whose networks are trained otherwise here, by the names of their recipes."""
    return {
        "lben-bounds": Explained(bounds, lambda record: _width(record) == WIDTH),
        "lben-widths": Explained(
            widths, lambda record: record.settings["config"]["family"].get("gamma") == OF_WIDTHS
        ),
    }  # fmt: skip


def _width(record: Record) -> int:
    return int(record.settings["config"]["family"]["width"])


def view(records: Sequence[Record]) -> View:
    """Every published quantity under every training."""
    return [table_of("The same networks under other trainings", figures(), records)]

"""Networks of Figures 1, 4a and 5 under other trainings, as the paper's own is not published."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from wellposed.reproduction.cell import Cell, Record
from wellposed.reproduction.measurements import of_task
from wellposed.reproduction.networks import settings_of
from wellposed.reproduction.other_trainings import table_of
from wellposed.reproduction.papers.monotone import VIEWS, deep, dense
from wellposed.reproduction.view import View
from wellposed.training.config import TrainConfig

TRAININGS = ((3, 1e-3), (10, 1e-3), (40, 1e-3), (15, 1e-2))  # epochs, peak of the learning rate
DEPTHS = tuple(int(depth) for depth in deep.PUBLISHED)
MONOTONICITIES = (0.1, 0.5, 20.0)
WIDTH = 40


def cells(quick: bool) -> list[Cell]:
    """Explicit networks of every depth with a published constant, and monotone ones, under every training."""
    trainings, depths, monotonicities = (((1, 1e-3),), (3,), (20.0,)) if quick else (TRAININGS, DEPTHS, MONOTONICITIES)
    limit = dense.QUICK_LIMIT if quick else None
    explicit = [(deep.deep_network, deep.deep_config(depth, 0, quick=quick)) for depth in depths]
    monotone = [(dense.dense_network, dense.dense_config(WIDTH, m, 0, quick=quick)) for m in monotonicities]
    kinds: list[tuple[Callable[..., dict[str, object]], TrainConfig]] = [*explicit, *monotone]
    return [
        Cell(measure, {"config": settings_of(replace(config, epochs=epochs, learning_rate=rate)), "limit": limit})
        for epochs, rate in trainings
        for measure, config in kinds
    ]


def deep_constants(records: Sequence[Record]) -> View:
    """Figure 1a, of the records of explicit networks."""
    return deep.constants(of_task(records, deep.deep_network))


def dense_constants(records: Sequence[Record]) -> View:
    """Figure 1b, of the records of monotone networks."""
    return dense.constants(of_task(records, dense.dense_network))


def view(records: Sequence[Record]) -> View:
    """Every published quantity under every training."""
    return [table_of("The same networks under other trainings", VIEWS, records)]

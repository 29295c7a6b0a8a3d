"""The dense networks on CIFAR-10 with other trainings, also as long as the published one, and their constants by an ascent."""

from __future__ import annotations

from collections.abc import Sequence

from wellposed.reproduction.cell import Cell, Record
from wellposed.reproduction.measurements import image_classifier
from wellposed.reproduction.other_trainings import Explained, table_of
from wellposed.reproduction.papers.lben.ascent import STEPS, ascended, ascents
from wellposed.reproduction.papers.lben.cifar import (
    DENSE,
    PUBLISHED_DENSE,
    RADII,
    dense,
    dense_view,
    differs_of,
    lower_bound_row,
)  # fmt: skip
from wellposed.reproduction.papers.lben.networks import LIMIT_QUICK, label_of
from wellposed.reproduction.papers.lben.retrained import otherwise, retrained
from wellposed.reproduction.view import Table, View

# Epochs, of which the last is published, and peak of the learning rate.
TRAININGS = ((1, 3e-3), (2, 3e-3), (5, 3e-3), (40, 1e-3))


def cells(quick: bool) -> list[Cell]:
    """Networks under every training, and ascents on those of the study."""
    trainings = ((1, 1e-3),) if quick else TRAININGS
    configs = [dense(kind, quick=quick) for kind in ((1.0,) if quick else DENSE)]
    limit, lengths = (LIMIT_QUICK, (20,)) if quick else (None, STEPS)
    return [
        *(
            Cell(image_classifier, {"config": config, "radii": RADII, "limit": limit})
            for config in retrained(configs, trainings)
        ),
        *ascents(configs, lengths),
    ]


def figures() -> dict[str, Explained]:
    """The study whose networks are trained or measured otherwise here, by the name of its recipe."""
    return {"lben-cifar-dense": Explained(_shown, lambda _: True, otherwise)}


def _shown(records: Sequence[Record]) -> View:
    """The study of networks that were trained otherwise, or what the ascent found of the study's own."""
    if not records[0].is_of(ascended):
        return dense_view(records)
    rows = [
        lower_bound_row(label_of(record), [record.measured["ratio"]], PUBLISHED_DENSE, differs_of(records))
        for record in records
    ]
    return [Table("Lower bounds by an ascent from noise", rows)]


def view(records: Sequence[Record]) -> View:
    """Every published quantity under every training."""
    return [table_of("The same networks on CIFAR-10, trained or measured otherwise", figures(), records)]

"""Figure 6: Lipschitz bounds of explicit and monotone networks over their width."""

from __future__ import annotations

from collections.abc import Sequence

from wellposed.reproduction.cell import Cell, Record
from wellposed.reproduction.measurements import of_task
from wellposed.reproduction.papers.monotone import deep, dense
from wellposed.reproduction.papers.monotone.showing import SEEDS, curve, family_of, grouped, quantity
from wellposed.reproduction.view import Figure, Published, Table, View, published_range

WIDTHS = (20, 40, 60, 80, 100)
DEPTH = 5
M = 1.0
_AXIS = "its range is read off an axis, and the paper's training is not published, on which constants depend"
PUBLISHED = Published(5.0, "axis of Fig. 6b, all widths", 0.5, _AXIS, 12.5)


def cells(quick: bool) -> list[Cell]:
    """Explicit networks of five linear maps, and monotone ones with m = 1, of every width."""
    widths, seeds = ((20, 60), (0,)) if quick else (WIDTHS, SEEDS)
    return [
        *(deep.deep_cell(DEPTH, seed, quick=quick, width=width) for width in widths for seed in seeds),
        *(dense.dense_cell(width, M, seed, quick=quick) for width in widths for seed in seeds),
    ]


def view(records: Sequence[Record]) -> View:
    """Bounds over the width, one figure for each kind of network."""
    kinds = (
        ("a", f"explicit, d = {DEPTH}", deep.deep_network, deep.BOUNDS),
        ("b", f"monotone, m = {M:g}", dense.dense_network, dense.BOUNDS),
    )
    rows, figures = [], []
    for letter, kind, measure, bounds in kinds:
        groups = grouped(of_task(records, measure), lambda record: family_of(record)["width"])
        for width, group in groups.items():
            for name, key in bounds:
                row = quantity(
                    group,
                    f"{kind}, h = {width}",
                    f"constant per normalised pixel, {name}",
                    dense.per_normalised(key),
                    published=PUBLISHED if letter == "b" and key == "product" else None,
                )
                rows.append(row)
        lines = [curve(name, groups, dense.per_normalised(key)) for name, key in bounds]
        if letter == "b" and groups:
            lines.append(published_range(f"{bounds[0][0]}, the figure's axis", list(groups), PUBLISHED))
        sentence = f"Lipschitz bounds over the width of networks ({kind}), with a proved lower bound."
        figures.append(
            Figure(f"monotone-fig6{letter}", sentence, "width", "Lipschitz constant per normalised pixel", lines)
        )
    return [Table("Lipschitz constants", rows), *figures]

"""Figure 5: test errors of the networks whose constants Figure 1 shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wellposed.reproduction.cell import Cell, Record
from wellposed.reproduction.measurements import of_task
from wellposed.reproduction.papers.monotone import images
from wellposed.reproduction.papers.monotone.deep import deep_cells, deep_network, depth_of
from wellposed.reproduction.papers.monotone.dense import dense_network, sweep_cells
from wellposed.reproduction.papers.monotone.showing import curve, family_of, grouped, quantity
from wellposed.reproduction.view import (
    Figure,
    Published,
    Quantity,
    Series,
    Table,
    View,
    published_points,
    published_range,
)  # fmt: skip

WIDTH = 40
PUBLISHED = {0.5: Published(2.4, "Fig. 5a", 0.05), 20.0: Published(4.2, "Fig. 5a", 0.05)}
EXPLICIT = Published(2.8, "Appendix F, all depths", 0.05, upto=3.2)
CONVOLUTIONAL = Published(0.65, "Section 5.1, all m", 0.005, upto=3.22)


def cells(quick: bool) -> list[Cell]:
    """Monotone networks with h = 40, explicit ones over depth, and convolutional ones."""
    dense = [cell for cell in sweep_cells(quick) if cell.settings["config"]["family"]["width"] == WIDTH]
    return [*dense, *deep_cells(quick), *images.monotone_cells(quick)]


def _error(measured: dict[str, Any]) -> float:
    return float(measured["test_error"])


def _rows(
    setting: str, groups: Mapping[float, Sequence[Record]], published: Mapping[float, Published]
) -> list[Quantity]:
    return [
        quantity(group, setting.format(key), "test error, %", _error, published=published.get(key))
        for key, group in groups.items()
    ]


def view(records: Sequence[Record]) -> View:
    """Test errors over m, and over the depth."""
    dense = grouped(of_task(records, dense_network), lambda record: float(family_of(record)["m"]))
    deep = grouped(of_task(records, deep_network), depth_of)
    kinds = grouped(of_task(records, images.image_network), lambda record: family_of(record)["name"])
    rows = _rows("dense, h = 40, m = {:g}", dense, PUBLISHED) + _rows(
        "explicit, d = {:g}", deep, dict.fromkeys(deep, EXPLICIT)
    )
    lines: list[Series] = []
    for kind, members in kinds.items():
        groups = grouped(members, lambda record: float(family_of(record)["m"]))
        rows += _rows(
            images.KINDS[kind] + ", m = {:g}", groups, dict.fromkeys(groups, images.differing(CONVOLUTIONAL, members))
        )
        lines.append(curve(images.KINDS[kind], groups, _error))
    if lines:
        all_m = [m for line in lines for m in line.x]
        lines.append(published_range("both, all m", all_m, CONVOLUTIONAL))
    over_m = [curve("h = 40", dense, _error), *published_points("h = 40", {m: PUBLISHED.get(m) for m in dense})]
    of_dense, of_images = (f"Test errors of {kind} monotone networks over m." for kind in ("dense", "convolutional"))
    return [
        Table("Test errors", rows),
        Figure("monotone-fig5a", of_dense, "m", "test error, %", over_m, logarithmic_x=True),
        Figure("monotone-fig5b", of_images, "m", "test error, %", lines, logarithmic_x=True),
    ]

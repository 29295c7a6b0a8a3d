"""The ratios of a benchmark as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wellposed.benchmarking.row import Record, Row
from wellposed.errors import require
from wellposed.experiments.ticks import plain_ticks

COLOURS = ("#1f5f99", "#b5423c", "#5b8db8", "#c98a3d", "#6b7d5c")
SENTENCE = (
    "Our time over the rival's, for every case that was measured: left of the line ours is faster; bars are quartiles over the "
    "turns, hollow marks are less exact than the rival."
)


def draw(record: Record, folder: Path) -> None:
    """Write speed-NAME.svg and speed-NAME.png into a folder; nothing where no row was measured.

    Args:
        record: the rows.
        folder: for the files.
    """
    measured = [row for row in record.rows if row.is_measured]
    if not measured:
        return
    matplotlib = require("matplotlib", "train")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    settings: Any = {
        "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "path", "svg.hashsalt": "wellposed",
    }  # fmt: skip
    with plt.rc_context(settings):
        figure = _ratios(plt, measured)
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / f"speed-{record.benchmark}.svg", bbox_inches="tight", metadata={"Date": None})
        figure.savefig(folder / f"speed-{record.benchmark}.png", bbox_inches="tight", dpi=120)
        plt.close(figure)


def _ratios(plt: Any, rows: list[Row]) -> Any:
    cases = list(dict.fromkeys(row.case for row in rows))
    rivals = list(dict.fromkeys(row.rival for row in rows))
    figure, axes = plt.subplots(figsize=(6.4, 0.9 + 0.3 * len(cases)))
    for place, rival in enumerate(rivals):
        colour, lower = COLOURS[place % len(COLOURS)], 0.6 * (place - (len(rivals) - 1) / 2) / max(len(rivals), 1)
        axes.plot([], [], "o", color=colour, label=f"over {rival}", markersize=4)
        for row in (row for row in rows if row.rival == rival):
            height = cases.index(row.case) + lower
            axes.plot(row.spread, (height, height), color=colour, linewidth=1.5)
            fill = colour if row.as_exact else "white"
            axes.plot(row.ratio, height, "o", color=colour, markersize=4, markerfacecolor=fill)
    axes.axvline(1.0, color="#9aa5b1", linewidth=1)
    axes.set(xscale="log", xlabel="our time over the rival's", yticks=range(len(cases)), yticklabels=cases)
    plain_ticks(axes.xaxis)
    axes.set_ylim(len(cases) - 0.5, -0.5)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure

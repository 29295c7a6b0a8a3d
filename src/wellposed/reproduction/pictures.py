"""The figures of recipes, as SVG and PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wellposed.errors import require
from wellposed.reproduction.view import Figure

COLOURS = ("#1f5f99", "#b5423c", "#6b7d5c", "#c98a3d", "#5b8db8", "#7d5c7a", "#9aa5b1", "#2f2f2f")
_STYLES = ("-", "--", ":", "-.")


def draw(figure: Figure, folder: Path) -> None:
    """Write NAME.svg and NAME.png into a folder.

    Args:
        figure: what to draw.
        folder: for the files; made where it is not there.
    """
    matplotlib = require("matplotlib", "train")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    settings: Any = {
        "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "path", "svg.hashsalt": "wellposed",
    }  # fmt: skip
    with plt.rc_context(settings):
        picture, axes = plt.subplots(figsize=(6.4, 4.0))
        for place, series in enumerate(figure.series):
            colour = COLOURS[place % len(COLOURS)]
            if series.published:
                axes.plot(series.x, series.y, "x", color=colour, label=f"{series.label} (published)", markersize=6)
                continue
            style = _STYLES[place // len(COLOURS) % len(_STYLES)]
            axes.plot(series.x, series.y, style, marker=".", color=colour, label=series.label)
            if series.spread:
                low, high = ([y + sign * s for y, s in zip(series.y, series.spread, strict=True)] for sign in (-1, 1))
                axes.fill_between(series.x, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.set(xlabel=figure.x, ylabel=figure.y)
        if figure.logarithmic:
            axes.set_yscale("log")
        if figure.logarithmic_x:
            axes.set_xscale("log")
        axes.legend(frameon=False, fontsize=8)
        folder.mkdir(parents=True, exist_ok=True)
        picture.savefig(folder / f"{figure.name}.svg", bbox_inches="tight", metadata={"Date": None})
        picture.savefig(folder / f"{figure.name}.png", bbox_inches="tight", dpi=120)
        plt.close(picture)

"""The figures of recipes, as SVG and PNG."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from wellposed.errors import require
from wellposed.reproduction.view import Figure, Series

COLOURS = ("#1f5f99", "#b5423c", "#6b7d5c", "#c98a3d", "#5b8db8", "#7d5c7a", "#9aa5b1", "#2f2f2f")
_STYLES = ("-", "--", ":", "-.")
_POINTS = 60  # of a curve up to which each is marked
_DECADES = 2.0  # from which on an axis is logarithmic
_LINE, _TITLE = 110, 75  # characters of a caption's line, and of a title's


def draw(figure: Figure, folder: Path, title: str, *, compare: bool = True) -> None:
    """Write NAME.svg and NAME.png into a folder.

    Args:
        figure: what to draw.
        folder: for the files; made where it is not there.
        title: above the picture; the figure's sentence comes under it.
        compare: whether to draw published points, too.
    """
    matplotlib = require("matplotlib", "train")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    settings: Any = {
        "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "path", "svg.hashsalt": "wellposed",
    }  # fmt: skip
    with plt.rc_context(settings):
        picture, axes = plt.subplots(figsize=(6.4, 4.0))
        shown = [series for series in figure.series if series.x and (compare or not series.published)]
        for series, look in zip(shown, looks(shown), strict=True):
            _curve(axes, series, *look)
        axes.set(xlabel=figure.x, ylabel=figure.y)
        _scale(axes, figure, shown)
        caption = textwrap.fill(figure.sentence, _LINE)
        axes.set_title(caption, loc="left", fontsize=7.5, color="#444444")
        height = 1.03 + 0.045 * (1 + caption.count("\n"))
        axes.text(
            0.0,
            height,
            textwrap.fill(title[:1].upper() + title[1:], _TITLE),
            transform=axes.transAxes,
            fontweight="bold",
        )
        if len(shown) > 1:  # beside the axes, where it covers nothing
            axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0))
        folder.mkdir(parents=True, exist_ok=True)
        picture.savefig(folder / f"{figure.name}.svg", bbox_inches="tight", metadata={"Date": None})
        picture.savefig(folder / f"{figure.name}.png", bbox_inches="tight", dpi=120)
        plt.close(picture)


def looks(series: Sequence[Series]) -> list[tuple[str, str]]:
    """Colour and line of each curve: published points have the colour of the measured curve of the same label."""
    labels = list(dict.fromkeys(each.label for each in series))
    places = [labels.index(each.label) for each in series]
    return [(COLOURS[place % len(COLOURS)], _STYLES[place // len(COLOURS) % len(_STYLES)]) for place in places]


def _curve(axes: Any, series: Series, colour: str, style: str) -> None:
    if series.published:
        axes.plot(series.x, series.y, "x", color=colour, label=f"{series.label} (published)", markersize=6)
        return
    marker = "." if len(series.x) <= _POINTS else ""
    axes.plot(series.x, series.y, style, marker=marker, color=colour, label=series.label)
    if series.spread:
        low, high = ([y + sign * s for y, s in zip(series.y, series.spread, strict=True)] for sign in (-1, 1))
        axes.fill_between(series.x, low, high, color=colour, alpha=0.15, linewidth=0)


def _scale(axes: Any, figure: Figure, shown: Sequence[Series]) -> None:
    """Logarithmic axes where numbers span decades, and ticks at integers where abscissae are such."""
    from matplotlib.ticker import MaxNLocator

    x = [value for series in shown for value in series.x]
    y = [value for series in shown for value in series.y]
    if figure.logarithmic_x or (spans_decades(x) and not counts(x)):
        axes.set_xscale("log")
    elif all(float(value).is_integer() for value in x):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if figure.logarithmic or ("%" not in figure.y and spans_decades(y)):
        axes.set_yscale("log")
    elif (
        "%" not in figure.y
        and min(y, default=0.0) <= 0.0
        and spans_decades([1.0, *(max(1.0, abs(value)) for value in y)])
    ):
        axes.set_yscale("symlog")  # linear from −1 to 1


def counts(values: Iterable[float]) -> bool:
    """Whether numbers are all the integers from their least to their greatest, as of epochs."""
    distinct = sorted(set(values))
    return (
        len(distinct) > 1
        and float(distinct[0]).is_integer()
        and distinct == [distinct[0] + place for place in range(len(distinct))]
    )


def spans_decades(values: Iterable[float]) -> bool:
    """Whether positive numbers differ by a factor of a hundred or more; zeros and negative numbers have no logarithm."""
    finite = [value for value in values if math.isfinite(value)]
    return bool(finite) and min(finite) > 0.0 and math.log10(max(finite) / min(finite)) >= _DECADES

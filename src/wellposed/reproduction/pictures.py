"""The figures of recipes, as SVG and PNG."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from wellposed.errors import require
from wellposed.experiments.ticks import plain_ticks
from wellposed.reproduction.view import Figure, Series

COLOURS = ("#1f5f99", "#b5423c", "#6b7d5c", "#c98a3d", "#5b8db8", "#7d5c7a", "#9aa5b1", "#2f2f2f")
_STYLES = ("-", "--", ":", "-.")
_SEEN = 1e-3  # relative difference of curves up to which one hides the other
_POINTS = 60  # of a curve up to which each is marked
_PLAIN = 2e3  # greatest over least number of a logarithmic axis below which ticks are plain numbers, not powers of ten
_DECADES = 2.0  # from which on an axis is logarithmic
_MARGIN = 0.05  # below the least ordinate, as a share of an axis that is cut off above
_LINE, _TITLE = 110, 90  # characters of a caption's line, and of a title's


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
        "hatch.linewidth": 0.5,
    }  # fmt: skip
    with plt.rc_context(settings):
        picture, axes = plt.subplots(figsize=(6.4, 4.0))
        shown = [series for series in figure.series if series.x and (compare or not series.published)]
        _curves(axes, shown)
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
        if len(axes.get_legend_handles_labels()[1]) > 1:  # beside the axes, where it covers nothing
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


def together(series: Sequence[Series]) -> list[list[Series]]:
    """Curves that would hide each other in one group; the others, and all that is published, in groups of their own."""
    groups: list[list[Series]] = []
    for each in series:
        group = next((group for group in groups if _coincide(group[0], each)), None)
        if group is None:
            groups.append([each])
        else:
            group.append(each)
    return groups


def _coincide(one: Series, other: Series) -> bool:
    if one.published or other.published or list(one.x) != list(other.x):
        return False
    return all(math.isclose(a, b, rel_tol=_SEEN) for a, b in zip(one.y, other.y, strict=True))


def _curves(axes: Any, shown: Sequence[Series]) -> None:
    """All curves, of which those that coincide are drawn once, under all their names."""
    groups = together(shown)
    first = {each.label: group[0].label for group in reversed(groups) for each in group}
    for group, look in zip(
        groups, looks([replace(group[0], label=first[group[0].label]) for group in groups]), strict=True
    ):
        _curve(axes, replace(group[0], label="\n".join(each.label for each in group)), *look)


def _curve(axes: Any, series: Series, colour: str, style: str) -> None:
    low, high = ([y + sign * s for y, s in zip(series.y, series.spread, strict=False)] for sign in (-1, 1))
    single = "o" if series.joined else "D"
    if series.published:
        label = f"{series.label} (published)"
        if low:
            axes.fill_between(series.x, low, high, facecolor="none", edgecolor=colour, hatch="///", label=label)
        else:
            axes.plot(series.x, series.y, single, color=colour, label=label, markerfacecolor="none", markersize=6)
        return
    if not series.joined:
        axes.errorbar(
            series.x, series.y, series.spread or None, fmt=single, color=colour, label=series.label, markersize=4
        )
        return
    marker = "." if len(series.x) <= _POINTS else ""
    axes.plot(series.x, series.y, style, marker=marker, color=colour, label=series.label)
    if low:
        axes.fill_between(series.x, low, high, color=colour, alpha=0.15, linewidth=0)


def _scale(axes: Any, figure: Figure, shown: Sequence[Series]) -> None:
    """Logarithmic axes where numbers span decades and are neither shares nor logarithms; ticks at integers of such abscissae."""
    from matplotlib.ticker import MaxNLocator

    x = [value for series in shown for value in series.x]
    y = [value for series in shown for value in series.y]
    if figure.logarithmic_x or (spans_decades(x) and not counts(x)):
        axes.set_xscale("log")
    elif all(float(value).is_integer() for value in x):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    is_plain = "%" in figure.y or figure.y.startswith("log")
    if figure.logarithmic or (not is_plain and spans_decades(y)):
        axes.set_yscale("log")
    if figure.upto is not None:
        least = min(
            value - extent for series in shown for value, extent in zip_longest(series.y, series.spread, fillvalue=0.0)
        )
        axes.set_ylim(least - _MARGIN * (figure.upto - least), figure.upto)
    for axis in (axes.xaxis, axes.yaxis):
        least, most = axis.get_view_interval()
        if axis.get_scale() == "log" and most < _PLAIN * least:
            plain_ticks(axis)


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

"""Ticks that a reader can read."""

from __future__ import annotations

from typing import Any

_NARROW = 6.0  # greatest over least number, up to which 1, 2 and 5 of every decade are too few


def plain_ticks(axis: Any) -> None:
    """Give a logarithmic axis of matplotlib plain numbers, at 1, 2 and 5 of every decade, or closer where it spans little."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    least, most = axis.get_view_interval()
    narrow = most < _NARROW * least
    axis.set_major_locator(MaxNLocator(6, steps=(1, 2, 5, 10)) if narrow else LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())

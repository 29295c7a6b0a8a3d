"""Progress on standard error: a bar for a person, sparse lines for a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from wellposed.errors import require

_SECONDS_BETWEEN_LINES = 5.0


class Done(Protocol):
    """Told the number of items finished so far, how many there are and what else is known."""

    def __call__(self, count: int, total: int | None = None, words: str = "") -> None: ...  # noqa: D102


@contextmanager
def counting(what: str, *, quiet: bool, total: int | None = None) -> Iterator[Done]:
    """A function to call with the number of items finished so far and, where it is known only then, of all items.

    Args:
        what: what is being done, e.g. ``"images certified"``.
        quiet: show nothing.
        total: number of all items; None where whoever counts says it, or nobody knows.
    """
    if quiet:
        yield lambda count, total=None, words="": None
    elif sys.stderr.isatty():
        parts = require("rich.progress", "train")
        console = require("rich.console", "train").Console(stderr=True)
        columns = (
            parts.TextColumn("{task.description}"), parts.BarColumn(), parts.MofNCompleteColumn(), parts.TimeElapsedColumn(),
            parts.TextColumn("left"), parts.TimeRemainingColumn(), parts.TextColumn("{task.fields[words]}"),
        )  # fmt: skip
        with parts.Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(what, total=total, words="")
            yield lambda count, of=None, words="": bar.update(task, completed=count, total=of or total, words=words)
    else:
        yield _Lines(what, total)


class _Lines:
    """A line every few seconds: how many of how many, and the time that is left at this pace."""

    def __init__(self, what: str, total: int | None) -> None:
        self._what, self._total = what, total
        self._start = self._last = time.monotonic()

    def __call__(self, count: int, total: int | None = None, words: str = "") -> None:
        now = time.monotonic()
        if now - self._last < _SECONDS_BETWEEN_LINES:
            return
        self._last = now
        print(self.line(count, total, words, now - self._start), file=sys.stderr, flush=True)

    def line(self, count: int, total: int | None, words: str, seconds: float) -> str:
        """The line after so many seconds."""
        total = total or self._total
        text = f"{self._what}: {count}"
        if total:
            text += f" of {total}"
            if count:
                text += f", {seconds * (total - count) / count:.0f} s left"
        return f"{text}, {words}" if words else text

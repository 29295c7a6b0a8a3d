"""Progress on standard error: a bar for a person, sparse lines for a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from wellposed.errors import require

_SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def counting(what: str, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A function to call with the number of items finished so far.

    Args:
        what: what is being done, e.g. ``"images certified"``.
        quiet: show nothing.
    """
    if quiet:
        yield lambda count: None
    elif sys.stderr.isatty():
        rich_progress = require("rich.progress", "train")
        console = require("rich.console", "train").Console(stderr=True)
        columns = (rich_progress.TextColumn("{task.description}"), rich_progress.TimeElapsedColumn())
        with rich_progress.Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(f"{what} …")
            yield lambda count: bar.update(task, description=f"{what}: {count}")
    else:
        last = [time.monotonic()]

        def line(count: int) -> None:
            if time.monotonic() - last[0] >= _SECONDS_BETWEEN_LINES:
                last[0] = time.monotonic()
                print(f"{what}: {count}", file=sys.stderr, flush=True)

        yield line

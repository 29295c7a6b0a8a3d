"""What a benchmark is: rows that can be measured, with the words that explain them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from wellposed.benchmarking.row import Row


@dataclass(frozen=True)
class Options:
    """How to measure.

    Attributes:
        quick: small cases and a few turns, only to see that everything works.
        against: another checkout of this library, or None.
    """

    quick: bool = False
    against: Path | None = None


@dataclass(frozen=True)
class Benchmark:
    """One subject to be compared with its rivals.

    Attributes:
        name: for the command.
        title: of its part of the page.
        explained: what is computed, and what is equal on both sides.
        errors: names of the errors that rows have.
        rows: measures them.
    """

    name: str
    title: str
    explained: str
    errors: tuple[str, ...]
    rows: Callable[[Options], Iterator[Row]]

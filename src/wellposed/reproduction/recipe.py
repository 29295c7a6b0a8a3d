"""A published figure or table as a recipe: what to measure, and how to show it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wellposed.reproduction.cell import Cell, Record
    from wellposed.reproduction.other_trainings import Explained
    from wellposed.reproduction.view import View

QUICK, FULL = "quick", "full"


@dataclass(frozen=True)
class Later:
    """A function of a paper's, whose module is imported when it is called: recipes are described without torch.

    Attributes:
        module: its place in `wellposed.reproduction.papers`.
        name: of the function.
    """

    module: str
    name: str

    def found(self) -> Callable[..., Any]:
        """The function itself."""
        function: Callable[..., Any] = getattr(
            importlib.import_module(f"wellposed.reproduction.papers.{self.module}"), self.name
        )
        return function

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns."""
        return self.found()(*arguments)


@dataclass(frozen=True)
class Recipe:
    """One figure or table of a paper.

    Attributes:
        name: of the command, ``wellposed reproduce NAME``.
        paper: key of the paper, see `wellposed.reproduction.collection.PAPERS`.
        shows: which figure or table.
        title: what it is about, one phrase.
        data: the sets that it needs, by name.
        cpu_hours: that the full run takes on one core, measured or estimated.
        gpu: whether the full run wants a GPU.
        cells: what to measure, given whether the run is quick: the same kinds of cells, small enough for two minutes in all.
        view: what to show of the records, which come in the order of the cells.
        missing: why it cannot be run, such as data that cannot be had; empty where it can.
        explains: figures of other recipes of the paper, by their names, whose networks this one trains otherwise, to tell whether
            training explains that a number deviates.
    """

    name: str
    paper: str
    shows: str
    title: str
    data: tuple[str, ...]
    cpu_hours: float
    gpu: bool
    cells: Callable[[bool], Sequence[Cell]]
    view: Callable[[Sequence[Record]], View]
    missing: str = ""
    explains: Callable[[], Mapping[str, Explained]] = dict


def result_path(out: Path, recipe: Recipe, *, quick: bool) -> Path:
    """The file of a recipe's result."""
    return out / f"{recipe.name}{'-quick' if quick else ''}.json"


def command_of(recipe: Recipe, *, quick: bool) -> str:
    """The command that runs a recipe."""
    return f"wellposed reproduce {recipe.name}{' --quick' if quick else ''}"

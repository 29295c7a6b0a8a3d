"""A published figure or table as a recipe: what to measure, and how to show it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from wellposed.errors import CheckpointError
from wellposed.experiments.spreading import spread
from wellposed.reproduction.cell import Cell, Record, Workspace, record_of
from wellposed.reproduction.other_trainings import Explained
from wellposed.reproduction.view import View
from wellposed.training.files import make_folder, write_json

QUICK, FULL = "quick", "full"


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
    explains: Mapping[str, Explained] = field(default_factory=dict)


def run_recipe(
    recipe: Recipe, workspace: Workspace, *, quick: bool, jobs: int = 1, ray: str | None = None,
    done: Callable[[int, int], None] = lambda *_: None,
) -> list[Record]:  # fmt: skip
    """Measure a recipe's cells, skipping what an earlier call finished, and write ``NAME.json`` (quick: ``NAME-quick.json``).

    Args:
        recipe: what to run.
        workspace: where; with a Ray cluster of several machines a folder that they share.
        quick: whether to take the small cells.
        jobs: see `spread`.
        ray: see `spread`.
        done: called with the number of finished cells, and with that of all.

    Returns:
        The records in the order of the cells.

    Raises:
        CheckpointError: the recipe cannot be run, or a file cannot be written.
    """
    if recipe.missing:
        raise CheckpointError(f"{recipe.name}: cannot be run: {recipe.missing}")
    make_folder(workspace.out)
    workspace = Workspace(
        workspace.out.absolute(), None if workspace.data_root is None else workspace.data_root.absolute()
    )
    cells = list(recipe.cells(quick))
    records: list[Record | None] = [None] * len(cells)
    with closing(spread(partial(record_of, workspace), cells, jobs=jobs, ray=ray)) as measured:
        for count, (place, record) in enumerate(measured, 1):
            records[place] = record
            done(count, len(cells))
    found = [record for record in records if record is not None]
    content = {
        "recipe": recipe.name, "extent": QUICK if quick else FULL, "command": command_of(recipe, quick=quick),
        "records": [asdict(record) for record in found],
    }  # fmt: skip
    write_json(result_path(workspace.out, recipe, quick=quick), content, indent=1)
    return found


def result_path(out: Path, recipe: Recipe, *, quick: bool) -> Path:
    """The file of a recipe's result."""
    return out / f"{recipe.name}{'-quick' if quick else ''}.json"


def command_of(recipe: Recipe, *, quick: bool) -> str:
    """The command that runs a recipe."""
    return f"wellposed reproduce {recipe.name}{' --quick' if quick else ''}"

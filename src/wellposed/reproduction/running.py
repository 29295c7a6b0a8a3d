"""Measuring a recipe."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path

from wellposed.errors import CheckpointError
from wellposed.experiments.spreading import spread
from wellposed.reproduction.cell import Record, Workspace, record_of
from wellposed.reproduction.recipe import FULL, QUICK, Recipe, command_of, result_path
from wellposed.reproduction.unfinished import take_over
from wellposed.training.files import make_folder, write_json


def run_recipe(
    recipe: Recipe, workspace: Workspace, *, quick: bool, jobs: int = 1, ray: str | None = None,
    measured: Path | None = None, done: Callable[[int, int], None] = lambda *_: None,
) -> list[Record]:  # fmt: skip
    """Measure a recipe's cells, skipping what an earlier call finished, and write ``NAME.json`` (quick: ``NAME-quick.json``).

    Args:
        recipe: what to run.
        workspace: where; with a Ray cluster of several machines a folder that they share.
        quick: whether to take the small cells.
        jobs: see `spread`.
        ray: see `spread`.
        measured: a folder of results, such as ``docs/records/papers``, whose measurements are not made again.
        done: called with the number of finished cells, and with that of all.

    Returns:
        The records in the order of the cells.

    Raises:
        CheckpointError: the recipe cannot be run, or a file cannot be written.
    """
    if recipe.missing:
        raise CheckpointError(f"{recipe.name}: cannot be run: {recipe.missing}")
    workspace = Workspace(
        workspace.out.absolute(), None if workspace.data_root is None else workspace.data_root.absolute()
    )
    cells = list(recipe.cells(quick))
    if measured is not None:
        take_over(workspace, cells, measured)
    make_folder(workspace.out)
    records: list[Record | None] = [None] * len(cells)
    with closing(spread(partial(record_of, workspace), cells, jobs=jobs, ray=ray)) as finished:
        for count, (place, record) in enumerate(finished, 1):
            records[place] = record
            done(count, len(cells))
    found = [record for record in records if record is not None]
    content = {
        "recipe": recipe.name, "extent": QUICK if quick else FULL, "command": command_of(recipe, quick=quick),
        "records": [asdict(record) for record in found],
    }  # fmt: skip
    write_json(result_path(workspace.out, recipe, quick=quick), content, indent=1)
    return found

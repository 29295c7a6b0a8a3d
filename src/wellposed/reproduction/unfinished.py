"""What was measured for recipes that are not finished, kept among the results, so that a run elsewhere goes on from there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from wellposed.errors import CheckpointError
from wellposed.reproduction.cell import Cell, Record, Workspace, read_record, read_result, record_path
from wellposed.reproduction.recipe import Recipe, result_path
from wellposed.training.files import make_folder, write_json

UNFINISHED = "unfinished.json"


def unfinished_of(recipe: Recipe, folder: Path) -> tuple[int, int]:
    """How many measurements of a recipe's full run a folder of results has in `UNFINISHED`, and of how many."""
    path, cells = folder / UNFINISHED, recipe.cells(False)
    known = {_key(record) for record in read_result(path)} if path.exists() else set()
    return sum(_key(cell) in known for cell in cells), len(cells)


def keep_unfinished(workspace: Workspace, folder: Path, recipes: Iterable[Recipe]) -> int:
    """Write what a workspace has measured for recipes without a full result into a folder of results.

    What `UNFINISHED` has already is kept, as far as it is needed still.

    Args:
        workspace: where it was measured.
        folder: of the results.
        recipes: all of them.

    Returns:
        The number of measurements.
    """
    path = folder / UNFINISHED
    known = {_key(record): record for record in read_result(path)} if path.exists() else {}
    kept: dict[str, Record] = {}
    for recipe in recipes:
        if recipe.missing or result_path(folder, recipe, quick=False).exists():
            continue
        for cell in recipe.cells(False):
            record = read_record(record_path(workspace, cell)) or known.get(_key(cell))
            if record is not None:
                kept[_key(cell)] = record
    if kept:
        write_json(path, {"records": [asdict(record) for record in kept.values()]}, indent=1)
    else:
        path.unlink(missing_ok=True)
    return len(kept)


def take_over(workspace: Workspace, cells: Sequence[Cell], folder: Path) -> None:
    """Put what a folder of results has measured of some cells into a workspace that has not measured them itself.

    Args:
        workspace: where they are to be measured.
        cells: of a recipe.
        folder: of results, such as ``docs/records/papers``.

    Raises:
        CheckpointError: there is no such folder, no result in it, or a damaged one.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; give one of results, such as docs/records/papers")
    results = sorted(folder.glob("*.json"))
    if not results:
        raise CheckpointError(
            f"{folder}: has no result, NAME.json; give a folder of results, such as docs/records/papers"
        )
    known = {_key(record): record for path in results for record in read_result(path)}
    for cell in cells:
        path = record_path(workspace, cell)
        if _key(cell) in known and not path.exists():
            make_folder(path.parent)
            write_json(path, asdict(known[_key(cell)]), indent=1)


def _key(of: Cell | Record) -> str:
    """What decided a measurement, as text."""
    return json.dumps([of.task, dict(of.settings)], sort_keys=True)

"""``wellposed reproduce NAME``: the figures and tables of the papers."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from wellposed.cli.options import Common, parse, show
from wellposed.cli.progress import counting
from wellposed.errors import CheckpointError, InputError, WellposedError

if TYPE_CHECKING:
    from wellposed.reproduction.cell import Record
    from wellposed.reproduction.recipe import Recipe

ALL = "all"


@dataclass(frozen=True)
class Recipes(Common):
    """Run the recipes of published figures and tables; what an earlier call finished is not done again."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Recipes, papers (all recipes of each), or all."""
    list: bool = False
    """List every recipe: its name, figure or table, data, CPU hours and whether it wants a GPU."""
    quick: bool = False
    """In small: at most two minutes for each."""
    jobs: int = 1
    """Processes of this machine."""
    ray: str | None = None
    """Address of a Ray cluster that does the work instead, auto or HOST:6379; its machines share the folder."""
    out: Path = Path("runs/reproduce")
    """Folder of networks, records, results and pictures."""
    measured: Path | None = None
    """Folder of results, such as docs/records/papers: what was measured there is not measured again."""


def recipes(arguments: list[str]) -> int:
    """``wellposed reproduce NAME …`` and ``wellposed reproduce --list``."""
    options = parse(Recipes, arguments, "wellposed reproduce")
    from wellposed.reproduction.collection import PAPERS, RECIPES

    if options.list:
        rows = [_row(recipe) for recipe in RECIPES.values()]
        return show(rows, _listing(rows), options)
    chosen = _chosen(options.names)
    results, texts, failed = {}, [], []
    for recipe in chosen:
        if recipe.missing and len(chosen) > 1:
            texts.append(f"{recipe.name}: not run, {recipe.missing}")
            continue
        try:
            records, text = _run(recipe, options)
        except WellposedError as error:  # of one recipe, such as data that is not there: the others go on
            if len(chosen) == 1:
                raise
            failed.append(f"{recipe.name}: {error}")
            continue
        results[recipe.name] = [dataclasses.asdict(record) for record in records]
        texts.append(f"{recipe.name}: {PAPERS[recipe.paper].title}, {recipe.shows}: {recipe.title}\n\n{text}")
    code = show(results, "\n\n\n".join(texts), options)
    if failed:
        raise CheckpointError("not finished: " + "\n".join(failed))
    return code


def _run(recipe: Recipe, options: Recipes) -> tuple[list[Record], str]:
    """Run a recipe and draw its figures; its records, and what is printed of them."""
    from wellposed.reproduction.cell import Workspace, blaming
    from wellposed.reproduction.pages import as_text, title_of
    from wellposed.reproduction.pictures import draw
    from wellposed.reproduction.recipe import result_path
    from wellposed.reproduction.running import run_recipe
    from wellposed.reproduction.view import figures_of

    with counting(f"{recipe.name}: measurements", quiet=options.json) as done:
        records = run_recipe(
            recipe, Workspace(options.out, options.data_root), quick=options.quick, jobs=options.jobs, ray=options.ray,
            measured=options.measured, done=done,
        )  # fmt: skip
    path = result_path(options.out, recipe, quick=options.quick)
    with blaming(path, f"delete its measurements in {options.out / 'cells'} and run it again"):
        for figure in figures_of(recipe.view(records)):
            folder = options.out / ("figures-quick" if options.quick else "figures")
            draw(figure, folder, title_of(recipe, records, options.quick), compare=not options.quick)
        return records, f"{as_text(recipe, records, quick=options.quick)}\n\n{path}"


def _chosen(names: tuple[str, ...]) -> list[Recipe]:
    """The recipes that names stand for, each once.

    Raises:
        InputError: none was named, or there is none of that name.
    """
    from wellposed.reproduction.collection import PAPERS, RECIPES

    if not names:
        raise InputError("names=(): give a recipe; `wellposed reproduce --list` shows them")
    found: dict[str, Recipe] = {}
    for name in names:
        if name not in (ALL, *PAPERS, *RECIPES):
            near = difflib.get_close_matches(name, (ALL, *PAPERS, *RECIPES), n=3, cutoff=0.4)
            meant = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
            raise InputError(f"names={name!r}: no such recipe or paper; {meant}`wellposed reproduce --list` shows all")
        found |= {key: recipe for key, recipe in RECIPES.items() if name in (ALL, recipe.paper, key)}
    return list(found.values())


def _row(recipe: Recipe) -> dict[str, Any]:
    from wellposed.reproduction.collection import PAPERS

    return {
        "name": recipe.name, "paper": PAPERS[recipe.paper].reference, "shows": recipe.shows, "title": recipe.title,
        "data": list(recipe.data), "cpu_hours": recipe.cpu_hours, "gpu": recipe.gpu, "missing": recipe.missing,
    }  # fmt: skip


def _listing(rows: list[dict[str, Any]]) -> str:
    """The recipes as aligned text, under the reference of their paper."""
    lines: list[str] = []
    width = max(len(row["name"]) for row in rows)
    for place, row in enumerate(rows):
        if place == 0 or row["paper"] != rows[place - 1]["paper"]:
            lines += [*([""] if lines else []), row["paper"].replace("*", "")]
        unit = "CPU hour" if row["cpu_hours"] == 1 else "CPU hours"
        hours = row["missing"] or f"{row['cpu_hours']:g} {unit}{', GPU' if row['gpu'] else ''}"
        lines.append(f"  {row['name']:<{width}}  {row['shows']}: {row['title']}; {', '.join(row['data'])}; {hours}")
    return "\n".join(lines)

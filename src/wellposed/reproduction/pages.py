"""A page for each paper, from the results of its recipes alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from wellposed.reproduction.cell import Record, blaming, read_result
from wellposed.reproduction.collection import PAPERS, Paper, recipes_of
from wellposed.reproduction.other_trainings import Trial, explanation, trials_of
from wellposed.reproduction.pictures import draw
from wellposed.reproduction.published_settings import settings_beside
from wellposed.reproduction.recipe import QUICK, Recipe, command_of, result_path
from wellposed.reproduction.unfinished import unfinished_of
from wellposed.reproduction.view import Quantity, Table, View, figures_of


def result_of(recipe: Recipe, folder: Path) -> tuple[list[Record], bool] | None:
    """A recipe's records, and whether they are of the quick run, which stands in while there is no full one; None for neither."""
    for quick in (False, True):
        path = result_path(folder, recipe, quick=quick)
        if path.exists():
            return read_result(path), quick
    return None


def page(key: str, folder: Path, figures: str) -> str:
    """The page of a paper in Markdown.

    Args:
        key: of the paper.
        folder: of the results.
        figures: where the page finds its pictures.
    """
    paper, recipes = PAPERS[key], recipes_of(key)
    parts = [_part(recipe, folder, figures) for recipe in recipes]
    return "\n\n".join([f"# {paper.title}", _introduction(paper), _overview(recipes, folder), *parts]) + "\n"


def write_pages(folder: Path, docs: Path) -> None:
    """Write ``docs/papers/KEY.md`` for every paper, and the pictures into ``docs/figures``.

    Args:
        folder: of the results.
        docs: the folder ``docs``.
    """
    (docs / "papers").mkdir(parents=True, exist_ok=True)
    for key in PAPERS:
        (docs / "papers" / f"{key}.md").write_text(page(key, folder, "../figures"), encoding="utf-8")
        for recipe in recipes_of(key):
            found = result_of(recipe, folder)
            if found is None:
                continue
            with blaming(*_to_blame(recipe, folder, quick=found[1])):
                for figure in figures_of(recipe.view(found[0])):
                    draw(figure, docs / "figures", title_of(recipe, *found), compare=not found[1])


def _introduction(paper: Paper) -> str:
    return (
        f"{paper.reference}. {paper.about}\n\n"
        "Every number below is rendered from the records of runs in `docs/records/papers`; `python docs/papers.py` makes this "
        "page of them. ± is the standard deviation over seeds. A verdict compares the mean with the published value: "
        "*reproduced* within the greater of that spread and the precision with which the value was published, *better* or *not "
        "reached* beyond; of a single seed the spread is not known, and counts as nothing. Of a deviation, "
        "*tested* names the trials, other trainings or measurements, that came nearest to the published value on either side: "
        "differences of that kind are as large as the deviation, which of them it was is not known."
    )


def _overview(recipes: Sequence[Recipe], folder: Path) -> str:
    lines = ["| in the paper | what | command | state |", "|---|---|---|---|"]
    for recipe in recipes:
        lines.append(
            f"| {recipe.shows} | {recipe.title} | `{command_of(recipe, quick=False)}` | {state_of(recipe, folder)} |"
        )
    return "\n".join(lines)


def state_of(recipe: Recipe, folder: Path) -> str:
    """Whether a recipe was run, and what the run takes."""
    if recipe.missing:
        return f"cannot be run: {recipe.missing}"
    found = result_of(recipe, folder)
    hours = f"{recipe.cpu_hours:g} CPU {'hour' if recipe.cpu_hours == 1 else 'hours'}" + (
        ", wants a GPU" if recipe.gpu else ""
    )
    if found is None:
        done, count = unfinished_of(recipe, folder)
        return f"not run in full ({done} of {count} measurements done), {hours}" if done else f"not run, {hours}"
    records, quick = found
    spent = sum(record.cpu_hours for record in records)
    return f"quick run only; the full one was not run, {hours}" if quick else f"run in {spent:.2g} CPU hours"


def title_of(recipe: Recipe, records: Sequence[Record], quick: bool) -> str:
    """The line above a recipe's pictures."""
    where = ", ".join(data_of(records) or recipe.data)
    return f"{recipe.shows}: {recipe.title}" + (f" ({QUICK} run on {where})" if quick else "")


def data_of(records: Sequence[Record]) -> list[str]:
    """The sets of data that networks were trained on; none where records do not say."""
    configs = [record.settings["config"] for record in records if "config" in record.settings]
    return sorted({str(config["data"]) for config in configs if "data" in config})


def _stand_in(recipe: Recipe, records: Sequence[Record]) -> str:
    """A sentence on sets of data that stand in for the recipe's; empty for none."""
    others = [name for name in data_of(records) if name not in recipe.data]
    return f" Trained on {', '.join(others)}, not on {', '.join(recipe.data)}." if others else ""


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def _part(recipe: Recipe, folder: Path, figures: str) -> str:
    head = f"## {recipe.shows}: {recipe.title}\n\n```\n{command_of(recipe, quick=False)}\n```"
    found = result_of(recipe, folder)
    if found is None:
        return f"{head}\n\n{_sentence(state_of(recipe, folder))}"
    records, quick = found
    with blaming(*_to_blame(recipe, folder, quick=quick)):
        stand_in = _stand_in(recipe, records)
        warning = (
            f"**Of the {QUICK} run only, which is too small to compare with the paper.{stand_in}**"
            if quick
            else stand_in.strip()
        )
        beside = settings_beside(PAPERS[recipe.paper].settings, records)
        said = [words for words in (warning, beside) if words]
        view = recipe.view(records) if quick else explained(recipe, records, folder)
        shown = as_markdown(view, figures, compare=not quick)
        return "\n\n".join([head, *said, shown, _measured(records)])


def _to_blame(recipe: Recipe, folder: Path, *, quick: bool) -> tuple[Path, str]:
    """The file of a result, and how to mend it."""
    return result_path(folder, recipe, quick=quick), f"run `{command_of(recipe, quick=quick)}` again"


def explained(recipe: Recipe, records: Sequence[Record], folder: Path) -> View:
    """What a recipe shows, with a remark on every deviation that another training of the same networks was tried for.

    Args:
        recipe: what to show.
        records: its records.
        folder: of the results.
    """
    trials = [found for other in recipes_of(recipe.paper) for found in _trials(other, recipe.name, folder)]
    return [part.with_rows(lambda row: _remarked(row, trials)) for part in recipe.view(records)]


def _trials(other: Recipe, name: str, folder: Path) -> list[tuple[str, list[Trial]]]:
    """What a recipe's full run tells of the figure of another, with the command that ran it."""
    found = result_of(other, folder)
    figure = other.explains().get(name)
    if found is None or figure is None or found[1]:
        return []
    with blaming(*_to_blame(other, folder, quick=False)):
        return [(command_of(other, quick=False), trials_of(figure, found[0]))]


def _remarked(row: Quantity, trials: Sequence[tuple[str, list[Trial]]]) -> Quantity:
    found = (explanation(row, tried, command) for command, tried in trials)
    return replace(row, remark=" ".join(words for words in (row.remark, *found) if words))


def _measured(records: Sequence[Record]) -> str:
    """Commits, dates, threads and CPU time behind a part."""

    def values(key: str) -> str:
        return ", ".join(sorted({str(record.circumstances[key]) for record in records}))

    spent = sum(record.cpu_hours for record in records)
    return (
        f"{len(records)} measurements, {spent:.2g} CPU hours, {values('date')}, commit {values('commit')}, "
        f"threads: {values('threads')}, {values('processor')}."
    )


def as_markdown(view: View, figures: str, *, compare: bool = True) -> str:
    """Tables and figures in Markdown.

    Args:
        view: what to show.
        figures: the folder of the pictures, as the page names it.
        compare: whether to give verdicts.
    """
    parts = []
    for part in view:
        if isinstance(part, Table):
            parts.append(_table(part, compare))
        else:
            parts.append(f"![{part.sentence}]({figures}/{part.name}.svg)\n\n{part.sentence}")
    return "\n\n".join(parts)


def _table(table: Table, compare: bool) -> str:
    rows = table.quantities
    has_published = any(row.published is not None for row in rows)
    has_remarks = any(row.remark for row in rows)
    header = ["setting", "quantity", *(["published"] if has_published else []), "here", "seeds"]
    header += (["verdict"] if has_published and compare else []) + (["remark"] if has_remarks else [])
    lines = [f"**{table.title}**", "", "| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in rows:
        published = "–" if row.published is None else f"{row.published} ({row.published.source})"
        cells = [
            row.setting,
            row.name,
            *([published] if has_published else []),
            measured_text(row),
            str(len(row.values)),
        ]
        cells += ([row.verdict or "–"] if has_published and compare else []) + ([row.remark] if has_remarks else [])
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def measured_text(row: Quantity) -> str:
    """Mean and spread of a quantity, with four digits; a dash where nothing was measured."""
    if not row.values:
        return "–"
    return f"{row.mean:.4g}" + (f" ± {row.spread:.2g}" if len(row.values) > 1 else "")


def as_text(recipe: Recipe, records: Sequence[Record], *, quick: bool = False) -> str:
    """Tables as aligned text, and the figures' sentences.

    Args:
        recipe: what to show.
        records: its records.
        quick: whether they are of a quick run, whose numbers stand alone as they cannot be compared.
    """
    stand_in = _stand_in(recipe, records)
    warning = f"Of the {QUICK} run, which is too small to compare with the paper." if quick else ""
    parts = [words for words in (f"{warning}{stand_in}".strip(),) if words]
    for part in recipe.view(records):
        if not isinstance(part, Table):
            parts.append(f"figure {part.name}: {part.sentence}")
            continue
        rows = [_cells(row, quick) for row in part.quantities]
        widths = [max((len(cell) for cell in column), default=0) for column in zip(*rows, strict=True)]
        lines = [part.title]
        for cells in rows:
            padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
            lines.append("  " + "  ".join(padded).rstrip())
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _cells(row: Quantity, quick: bool) -> tuple[str, ...]:
    published = "" if row.published is None or quick else f"published {row.published}"
    return row.setting, row.name, measured_text(row), published, row.remark

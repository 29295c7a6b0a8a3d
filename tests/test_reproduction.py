"""Recipes of published figures: spreading of work, records, verdicts, pages, the command."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from functools import partial
from pathlib import Path

import pytest

from wellposed.cli.main import run as command
from wellposed.errors import CertificateError, CheckpointError, InputError
from wellposed.experiments.spreading import spread
from wellposed.reproduction import pages
from wellposed.reproduction.cell import Cell, Record, Workspace, blaming, record_of, record_path
from wellposed.reproduction.collection import PAPERS, RECIPES, recipes_of
from wellposed.reproduction.networks import settings_of
from wellposed.reproduction.other_trainings import Explained, Trial, explanation, table_of, training_of
from wellposed.reproduction.recipe import Recipe, result_path
from wellposed.reproduction.running import run_recipe
from wellposed.reproduction.unfinished import UNFINISHED, keep_unfinished
from wellposed.reproduction.view import Figure, Published, Quantity, Series, Table
from wellposed.training.config import TrainConfig

RECORDS = Path(__file__).parents[1] / "docs" / "records" / "papers"
DOCS = Path(__file__).parents[1] / "docs"


TABLE_9 = Published(2.0, "Table 9", 0.1)


def squared(offset: int, item: int) -> int:
    return item * item + offset


def raising(item: int) -> int:
    if item == 3:
        raise InputError("item=3: is refused")
    return item


def measured(workspace: Workspace, *, item: int) -> dict[str, float]:
    """Notes every call in a file, so that tests see what was done again."""
    with (workspace.out / "calls.txt").open("a") as calls:
        calls.write(f"{item}\n")
    if (workspace.out / f"stop-{item}").exists():
        raise InputError(f"item={item}: is refused")
    return {"value": item / 2}


def recipe(items: tuple[int, ...] = (1, 2, 3), missing: str = "") -> Recipe:
    return Recipe(
        "own", "monotone", "Figure 0", "halves", ("digits",), 0.1, False,
        lambda quick: [Cell(measured, {"item": item}) for item in items[: 1 if quick else None]],
        lambda records: [
            Table("halves", [Quantity("all", "half", [r.measured["value"] for r in records], "lower", TABLE_9)]),
            Figure("own", "Halves grow.", "item", "half", [Series("half", [1, 2], [0.5, 1.0], [0.1, 0.1])]),
        ],
        missing,
    )  # fmt: skip


@pytest.mark.parametrize("jobs", [1, 2])
def test_all_items_come_with_their_place(jobs):
    found = dict(spread(partial(squared, 7), list(range(9)), jobs=jobs))
    assert found == {place: place * place + 7 for place in range(9)}


def test_results_before_a_failure_come_and_the_failure_keeps_its_words():
    found = []
    with pytest.raises(InputError, match="item=3"):
        found.extend(spread(raising, [0, 1, 2, 3, 4]))
    assert found == [(0, 0), (1, 1), (2, 2)]
    with pytest.raises(InputError, match="item=3"):
        list(spread(raising, [0, 1, 2, 3, 4], jobs=2))
    with pytest.raises(InputError, match="jobs=0"):
        spread(raising, [0], jobs=0)


def test_a_finished_measurement_is_not_done_again(tmp_path):
    workspace = Workspace(tmp_path, None)
    first = run_recipe(recipe((1, 2)), workspace, quick=False)
    second = run_recipe(recipe((1, 2, 5)), workspace, quick=False)
    assert (tmp_path / "calls.txt").read_text().split() == ["1", "2", "5"]
    assert second[:2] == first and [record.measured["value"] for record in second] == [0.5, 1.0, 2.5]
    assert first[0].circumstances["threads"] >= 1 and first[0].cpu_hours >= 0.0


def test_what_was_finished_before_a_failure_is_kept(tmp_path):
    (tmp_path / "stop-2").touch()
    with pytest.raises(InputError, match="item=2"):
        run_recipe(recipe(), Workspace(tmp_path, None), quick=False)
    (tmp_path / "stop-2").unlink()
    assert len(run_recipe(recipe(), Workspace(tmp_path, None), quick=False)) == 3
    assert (tmp_path / "calls.txt").read_text().split() == ["1", "2", "2", "3"]


def test_other_settings_have_another_record(tmp_path):
    names = {Cell(measured, {"item": item}).name for item in (1, 2, 1.5)} | {Cell(squared, {"item": 1}).name}
    assert len(names) == 4


def test_a_damaged_record_is_named(tmp_path):
    workspace, cell = Workspace(tmp_path, None), Cell(measured, {"item": 1})
    record_of(workspace, cell)
    path = record_path(workspace, cell)
    for damage in ("", path.read_text()[:40], "[]", '{"task": 1}'):
        path.write_text(damage)
        with pytest.raises(CheckpointError, match=path.name):
            record_of(workspace, cell)


def test_a_record_of_another_measurement_is_named(tmp_path):
    """Such as one whose file was copied or changed by hand, without a digest."""
    workspace, cell = Workspace(tmp_path, None), Cell(measured, {"item": 1})
    record_of(workspace, cell)
    path = record_path(workspace, cell)
    record_path(workspace, Cell(measured, {"item": 2})).write_bytes(path.read_bytes())
    with pytest.raises(CheckpointError, match="another measurement"):
        record_of(workspace, Cell(measured, {"item": 2}))
    changed = {**json.loads(path.read_text()), "settings": {"item": 3}, "measured": {"value": 0.001}}
    del changed["sha256"]
    path.write_text(json.dumps(changed))
    with pytest.raises(CheckpointError, match="another measurement"):
        record_of(workspace, cell)


def test_a_run_goes_on_from_what_another_workspace_has_measured(tmp_path):
    here, there, results = (tmp_path / name for name in ("here", "there", "results"))
    for folder in (here, there, results):
        folder.mkdir()
    (here / "stop-3").touch()
    with pytest.raises(InputError, match="item=3"):
        run_recipe(recipe(), Workspace(here, None), quick=False)
    assert keep_unfinished(Workspace(here, None), results, [recipe()]) == 2
    assert pages.state_of(recipe(), results) == "not run in full (2 of 3 measurements done), 0.1 CPU hours"
    assert keep_unfinished(Workspace(tmp_path / "empty", None), results, [recipe()]) == 2  # what is known is kept
    found = run_recipe(recipe(), Workspace(there, None), quick=False, measured=results)
    assert (there / "calls.txt").read_text().split() == ["3"]
    assert [record.measured["value"] for record in found] == [0.5, 1.0, 1.5]
    result_path(there, recipe(), quick=False).rename(result_path(results, recipe(), quick=False))
    assert keep_unfinished(Workspace(here, None), results, [recipe()]) == 0 and not (results / UNFINISHED).exists()
    run_recipe(recipe((1, 2, 3, 4)), Workspace(tmp_path / "more", None), quick=False, measured=results)
    assert (tmp_path / "more" / "calls.txt").read_text().split() == ["4"]


def test_results_that_cannot_be_gone_on_from_are_named(tmp_path):
    workspace = Workspace(tmp_path / "own", None)
    with pytest.raises(CheckpointError, match="no such folder"):
        run_recipe(recipe(), workspace, quick=False, measured=tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="no result"):
        run_recipe(recipe(), workspace, quick=False, measured=tmp_path / "empty")
    assert not workspace.out.exists()
    for damage in ("{}", '{"records": [{"task": 1, "settings": 2, "measured": 3}]}'):
        (tmp_path / UNFINISHED).write_text(damage)
        with pytest.raises(CheckpointError, match=UNFINISHED):
            run_recipe(recipe(), workspace, quick=False, measured=tmp_path)


def test_a_recipe_that_cannot_be_run_says_why(tmp_path):
    with pytest.raises(CheckpointError, match="SVHN cannot be had"):
        run_recipe(recipe(missing="SVHN cannot be had"), Workspace(tmp_path, None), quick=True)


@pytest.mark.parametrize(
    ("values", "better", "published", "verdict"),
    [
        ([2.05], "lower", Published(2.0, "T", 0.1), "reproduced"),
        ([1.5], "lower", Published(2.0, "T", 0.1), "better"),
        ([2.5], "lower", Published(2.0, "T", 0.1), "not reached"),
        ([2.5], "higher", Published(2.0, "T", 0.1), "better"),
        ([1.5], "higher", Published(2.0, "T", 0.1), "not reached"),
        ([2.5], "equal", Published(2.0, "T", 0.1), "not reached"),
        ([2.0, 3.0, 2.6], "lower", Published(2.1, "T", 0.1), "reproduced"),  # within the spread over seeds
        ([2.5, 2.5, 2.5], "lower", Published(2.1, "T", 0.1), "not reached"),
        ([], "lower", Published(2.0, "T", 0.1), "not run"),
        (
            [2.0],
            "lower",
            Published(2.0, "T", 0.1, "it is another network"),
            "not comparable because it is another network",
        ),
        ([2.0], "lower", None, ""),
    ],
)
def test_verdicts(values, better, published, verdict):
    assert Quantity("s", "q", values, better, published).verdict == verdict


def test_a_page_is_made_of_records_alone(tmp_path, monkeypatch):
    own = recipe()
    monkeypatch.setitem(RECIPES, "own", own)
    text = pages.page("monotone", tmp_path, "figures")
    assert "not run, 0.1 CPU hours" in text and "`wellposed reproduce own`" in text
    run_recipe(own, Workspace(tmp_path, None), quick=True)
    text = pages.page("monotone", tmp_path, "figures")
    assert "quick run only" in text and "reproduced" not in text.split("## Figure 0")[1]  # nothing is compared
    run_recipe(own, Workspace(tmp_path, None), quick=False)
    text = pages.page("monotone", tmp_path, "figures").split("## Figure 0")[1]
    assert "| all | half | 2 (Table 9) | 1 ± 0.5 | 3 | better |" in text.replace("not reached", "better")
    assert "![Halves grow.](figures/own.svg)" in text


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda record: record["measured"].pop("value"), "record 2, measured lacks 'value'"),
        (lambda record: record["settings"].clear(), ""),  # of which the view asks nothing
        (lambda record: record["measured"].update(value="x"), "unusable values"),
        (lambda record: record["measured"].update(value=None), "unusable values"),
        (lambda record: record.update(measured=[]), "record 2"),
        (lambda record: record["circumstances"].pop("date"), "record 2, circumstances lacks 'date'"),
    ],
)
def test_a_page_names_the_file_and_what_it_lacks(change, says, tmp_path, monkeypatch):
    own = recipe()
    monkeypatch.setitem(RECIPES, "own", own)
    run_recipe(own, Workspace(tmp_path, None), quick=False)
    path = result_path(tmp_path, own, quick=False)
    content = json.loads(path.read_text())
    del content["sha256"]
    change(content["records"][1])
    path.write_text(json.dumps(content))
    if not says:
        assert "## Figure 0" in pages.page("monotone", tmp_path, "figures")
        return
    with pytest.raises(CheckpointError) as caught:
        pages.page("monotone", tmp_path, "figures")
    said = str(caught.value)
    assert str(path) in said and says in said and " again" in said and "\n" not in said
    if "unusable" in said:
        with pytest.raises(CheckpointError, match=r"own\.json"):
            pages.write_pages(tmp_path, tmp_path / "docs")


def test_the_command_names_a_record_and_what_it_lacks(tmp_path, monkeypatch, capsys):
    own = recipe()
    monkeypatch.setitem(RECIPES, "own", own)
    arguments = ["reproduce", "own", "--out", str(tmp_path)]
    assert command(arguments) == 0
    path = record_path(Workspace(tmp_path, None), own.cells(False)[2])
    for measured_, says in (
        ({}, f"{path}: damaged, the record, measured lacks 'value'; delete it"),
        ({"value": []}, "own.json"),
    ):
        content = json.loads(path.read_text())
        content.pop("sha256", None)
        path.write_text(json.dumps({**content, "measured": measured_}))
        assert command(arguments) != 0
        said = capsys.readouterr().err
        assert says in said and "Traceback" not in said


def test_contradictions_name_the_file(tmp_path):
    with pytest.raises(CertificateError, match=r"^own\.json: contradicted$"), blaming(Path("own.json"), "run it again"):
        raise CertificateError("contradicted")


def trained_otherwise(workspace: Workspace, *, config: dict[str, float]) -> dict[str, float]:
    return {"value": 1.0 + config["epochs"] / 10}


@pytest.mark.parametrize(
    ("epochs", "says"),
    [
        (
            (5, 15),
            "Tested: 1.5 with 5 epochs at 0.1, 2.5 with 15 epochs at 0.1 (`wellposed reproduce otherwise`): on either side.",
        ),
        (
            (1, 5),
            "Tested, not explained: 1 here, 1.5 with 5 epochs at 0.1 (`wellposed reproduce "
            "otherwise`); the published value is outside.",
        ),
    ],
)
def test_deviations_are_explained_by_records_of_other_trainings(tmp_path, monkeypatch, epochs, says):
    own = recipe()
    figures = {"own": Explained(own.view, lambda record: record.is_of(trained_otherwise))}
    otherwise = Recipe(
        "otherwise", "monotone", "beside the paper", "other trainings", ("digits",), 0.1, False,
        lambda quick: [Cell(trained_otherwise, {"config": {"epochs": n + quick, "learning_rate": 0.1}}) for n in epochs],
        lambda records: [table_of("otherwise", figures, records)], explains=lambda: figures,
    )  # fmt: skip
    monkeypatch.setitem(RECIPES, "own", own)
    monkeypatch.setitem(RECIPES, "otherwise", otherwise)
    run_recipe(own, Workspace(tmp_path, None), quick=False)
    run_recipe(otherwise, Workspace(tmp_path, None), quick=True)
    assert "xplained" not in pages.page("monotone", tmp_path, "f").split("## Figure 0")[1].split("## beside")[0]
    run_recipe(otherwise, Workspace(tmp_path, None), quick=False)
    text = pages.page("monotone", tmp_path, "f").split("## Figure 0")[1]
    assert says in text and f"all, {epochs[1]} epochs at 0.1" in text


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"config": {"epochs": 1, "learning_rate": 0.1}}, "1 epoch at 0.1"),
        (
            {"config": {"epochs": 15, "learning_rate": 0.001, "batch_size": 32, "weight_decay": 0.05}},
            "15 epochs at 0.001 with batches of 32 with a weight decay of 0.05",
        ),
        ({"config": {"epochs": 3, "learning_rate": 0.1}, "samples": 4096}, "3 epochs at 0.1 with all images"),
        ({"learning_rate": 0.01}, "a learning rate of 0.01"),
        (
            {"learning_rate": 0.001, "orthogonal": True, "weight_decay": 0.1},
            "a learning rate of 0.001, orthogonal weights at first, a weight decay of 0.1",
        ),
        (
            {"learning_rate": 0.1, "descent_of": 16, "maps": 2},
            "a learning rate of 0.1, gradient descent in batches of 16, 2 linear maps",
        ),
    ],
)
@pytest.mark.parametrize("reached", [True, False])
def test_trainings_are_told_apart(settings, words, reached):
    record = Record("t", settings, {"reached": reached}, {})
    ended = "" if reached or "config" in settings else " (the margin was not reached)"
    assert training_of(record) == words + ended


def test_what_is_reproduced_needs_no_explanation():
    same = Quantity("s", "q", [2.0], "lower", TABLE_9)
    off = Quantity("s", "q", [3.0], "lower", TABLE_9)
    trials = [Trial("5 epochs at 0.1", off)]
    assert explanation(same, trials, "c") == "" and explanation(off, trials, "c")
    assert explanation(Quantity("other", "q", [3.0], "lower", TABLE_9), trials, "c") == ""
    assert explanation(Quantity("s", "q", [3.0], "lower"), trials, "c") == ""


def test_the_command_lists_and_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(RECIPES, "own", recipe())
    assert command(["reproduce", "--list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["own"]["shows"] == "Figure 0" and set(rows) == set(RECIPES)
    out = str(tmp_path / "out")
    assert command(["reproduce", "own", "--quick", "--out", out]) == 0
    shown = capsys.readouterr().out
    assert "published" not in shown and "too small to compare" in shown
    assert command(["reproduce", "own", "--out", out]) == 0
    assert "published 2" in capsys.readouterr().out
    for place in ("figures", "figures-quick"):
        for ending in ("svg", "png"):
            assert (tmp_path / "out" / place / f"own.{ending}").stat().st_size > 1000
    assert json.loads(result_path(Path(out), recipe(), quick=True).read_text())["extent"] == "quick"
    assert command(["reproduce", "nothing-such", "--quick"]) == 2
    assert "nothing-such" in capsys.readouterr().err
    assert command(["reproduce", "--quick"]) == 2
    monkeypatch.setitem(RECIPES, "own", recipe(missing="its data cannot be had"))
    assert command(["reproduce", "own", "--quick", "--out", out]) == 2
    assert "its data cannot be had" in capsys.readouterr().err


def test_a_recipe_that_fails_stops_no_other(tmp_path, monkeypatch, capsys):
    """What failed is named in the end, with its reason; a call that follows does it and nothing else."""
    first = dataclasses.replace(recipe((3, 4)), name="first")
    monkeypatch.setitem(RECIPES, "first", first)
    monkeypatch.setitem(RECIPES, "own", recipe((1,)))
    (tmp_path / "stop-3").touch()
    assert command(["reproduce", "first", "own", "--out", str(tmp_path)]) == 2
    shown = capsys.readouterr()
    assert "first: item=3: is refused" in shown.err and "published 2" in shown.out
    assert result_path(tmp_path, recipe(), quick=False).exists()
    assert command(["reproduce", "first", "own", "--out", str(tmp_path), "--json"]) == 2
    assert set(json.loads(capsys.readouterr().out)) == {"own"}
    (tmp_path / "stop-3").unlink()
    assert command(["reproduce", "first", "own", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "calls.txt").read_text().split() == ["3", "1", "3", "3", "4"]


def test_recipes_are_whole():
    for name, entry in RECIPES.items():
        assert entry.name == name and entry.paper in PAPERS and entry.cpu_hours > 0 and entry.data
        if not entry.missing:
            quick, full = entry.cells(True), entry.cells(False)
            assert quick and full and len({cell.name for cell in full}) == len(full)
            json.dumps([dict(cell.settings) for cell in (*quick, *full)])
            assert not {cell.name for cell in quick} & {cell.name for cell in full}, name
    assert all(recipes_of(key) for key in PAPERS)
    with pytest.raises(InputError, match="nothing"):
        recipes_of("nothing")


@pytest.mark.parametrize("key", list(PAPERS))
def test_pages_are_what_the_records_say(key):
    kept = DOCS / "papers" / f"{key}.md"
    assert kept.read_text(encoding="utf-8") == pages.page(key, RECORDS, "../figures"), "run python docs/papers.py"
    for entry in recipes_of(key):
        found = pages.result_of(entry, RECORDS)
        for part in entry.view(found[0]) if found else ():
            if isinstance(part, Figure):
                assert (DOCS / "figures" / f"{part.name}.svg").exists() and (
                    DOCS / "figures" / f"{part.name}.png"
                ).exists()


@pytest.mark.parametrize(
    "entry", [entry for entry in RECIPES.values() if pages.result_of(entry, RECORDS)], ids=lambda e: e.name
)
def test_results_are_of_what_the_recipes_measure_now(entry):
    """A page's command gives the page: neither more nor less, and nothing under other settings."""

    def wanted(of):
        settings = dict(of.settings)
        if "config" in settings:  # records of earlier versions lack options that came later, with their defaults
            settings["config"] = settings_of(TrainConfig.from_dict(settings["config"]))
        return json.dumps([of.task, settings], sort_keys=True)

    assert sorted(map(wanted, pages.result_of(entry, RECORDS)[0])) == sorted(map(wanted, entry.cells(False)))


@pytest.mark.parametrize("key", PAPERS)
def test_rows_of_a_page_have_as_many_cells_as_their_head(key):
    cells = [len(re.findall(r"(?<!\\)\|", line)) for line in (DOCS / "papers" / f"{key}.md").read_text().splitlines()]
    tables = [list(group) for inside, group in itertools.groupby(cells, bool) if inside]
    assert tables and all(len(set(table)) == 1 for table in tables)

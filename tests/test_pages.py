"""The pages of runs: the terminal's numbers, every kind of run, sentences that the numbers decide, where all of it comes from."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from sklearn import datasets

from harness.pages import Page
from harness.results import unsealed
from test_graphs import small_set as small_set
from test_own_data import wine
from wellposed.cli.main import run
from wellposed.data import load_images
from wellposed.experiments.adversarial import pairs
from wellposed.experiments.comparison import _panel, names_of
from wellposed.experiments.conclusions import conclusions, conclusions_on_estimates
from wellposed.experiments.iterations import certified_errors
from wellposed.experiments.plots import panels, training
from wellposed.experiments.regression import Estimate
from wellposed.experiments.tables import Row, Summary, cells
from wellposed.numerics.shown import at_least, at_most
from wellposed.solvers.solution import Tolerance
from wellposed.training.environment import commit
from wellposed.training.run import load_run

pytestmark = [pytest.mark.float32, pytest.mark.usefixtures("short_search")]

QUICK = ["--epochs", "6", "--width", "12", "--learning-rate", "0.02", "--batch-size", "64"]
ONCE = ["--epochs", "1", "--width", "6"]


def output_of(capsys, *words, code=0):
    capsys.readouterr()
    assert run(list(map(str, words))) == code, capsys.readouterr().err
    return capsys.readouterr()


def page_of(folder):
    """The page of a run, with what every page must have."""
    found = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert found.images and all(image["alt"] and len(image["alt"]) > 15 for image in found.images)
    assert "width=device-width" in found.attributes["meta"]["content"] and found.attributes["html"]["lang"] == "en"
    assert "SHA-256" in found.text and "nan" not in found.text.lower().split()
    return found


def rows_of(text):
    """The cells of the lines of a terminal's table that begin with a radius."""
    return [line.split() for line in text.splitlines() if line.startswith("  ") and "radius" not in line]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages") / "digits"
    assert run(["train", "mondeq", "--data", "digits", "--out", str(folder), "--json", *QUICK]) == 0
    assert run(["certify", str(folder), "--limit", "60"]) == 0
    assert run(["attack", str(folder), "--limit", "40", "--steps", "5"]) == 0
    return folder


def test_the_numbers_are_those_of_the_terminal(finished, capsys):
    shown = output_of(capsys, "report", finished, "--eps", "0.05", "0.2", "1").out
    page = page_of(finished)
    names, *rows = page.tables[0][0], *page.tables[0][1:]
    assert names == ["radius", "clean", "2L rule", "certified", "attacked"]
    assert rows == rows_of(shown) and len(rows) == 3
    summary, about, *_ = shown.splitlines()
    assert summary in page.text and about in page.text and "radii are Euclidean, in pixel units" in about
    numbers = json.loads(output_of(capsys, "report", finished, "--eps", "0.05", "0.2", "1", "--json").out)
    found = [Row(**row) for row in numbers.pop("rows")]
    assert rows == [cells(row) for row in found] and numbers.pop("report") == str(finished / "report.html")
    for sentence in conclusions(Summary(**numbers, rows=found)):
        assert sentence in page.text and sentence in shown


def test_a_page_says_what_it_is_about_and_where_it_comes_from(finished, capsys):
    output_of(capsys, "report", finished)
    text = page_of(finished).text
    data = load_images("digits")
    digest = hashlib.sha256(data.test_x.numpy().tobytes() + data.test_y.numpy().tobytes()).hexdigest()
    weights = hashlib.sha256((finished / "weights.safetensors").read_bytes()).hexdigest()
    noted = json.loads((finished / "environment.json").read_text())
    assert noted["command"].startswith("wellposed train mondeq --data digits") and noted["commit"]
    for part in (
        digest,
        weights,
        f"wellposed report {finished}",
        noted["command"],
        noted["date"],
        f"took {noted['seconds']} s",
    ):
        assert part in text, part
    blocks = page_of(finished).tables[1]
    assert blocks[0] == ["name", "class", "constant", "reason"]
    assert [row[1] for row in blocks[1:5]] == ["Normalize", "Flatten", "MonDEQ", "Linear"]
    stored = {name: value for name, value, _ in unsealed(finished / "certified.json")["constants"]}
    assert {row[0]: row[2] for row in blocks[1:]} == {name: at_most(value) for name, value in stored.items()}


def test_a_commit_is_that_of_the_library_only(tmp_path):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "installed").mkdir()
    assert commit(tmp_path / "installed") == "unknown"


def pixels_of(picture):
    return imread(io.BytesIO(base64.b64decode(picture.source.partition(",")[2])))[..., :3]


def test_pairs_stand_beside_their_difference(finished, tmp_path):
    examples = unsealed(finished / "adversarial.json")["examples"]
    found = pairs(finished / "adversarial.json", ())
    assert len(found) == len(examples) == 6
    for pair, entry in zip(found, examples, strict=True):
        image, other = (np.array(entry[key])[0] for key in ("image", "adversarial"))
        assert entry["distance"] == pytest.approx(float(np.linalg.norm(other - image)), rel=1e-3)
        assert (
            f"distance {entry['distance']:.3g};" in pair.caption
            and f"than {np.abs(other - image).max():.3g}" in pair.caption
        )
        first, second, colours = map(pixels_of, pair.pictures)
        assert np.allclose(first[..., 0], image, atol=1 / 255) and np.allclose(second[..., 1], other, atol=1 / 255)
        strong = np.abs(other - image) > 0.02 * np.abs(other - image).max()
        brighter = colours[..., 0] > colours[..., 2]
        assert (brighter[strong] == (other > image)[strong]).all() and strong.any()
    red = np.stack([np.ones((2, 2)), np.zeros((2, 2)), np.zeros((2, 2))])
    colour = {**examples[0], "label": 2, "image": (0 * red).tolist(), "adversarial": red.tolist()}
    (tmp_path / "a.json").write_text(json.dumps([colour]))
    (pair,) = pairs(tmp_path / "a.json", tuple("abcdefghij"))
    assert pixels_of(pair.pictures[1])[0, 0].tolist() == [1.0, 0.0, 0.0] and "c becomes" in pair.caption


def test_errors_of_solves_are_certified(finished):
    _, data, model = load_run(finished)
    found = certified_errors(model, data.test_x[:50], (1e-1, 1e-3))
    layer = model[2]
    inputs = model[:2](data.test_x[:50])
    layer.tolerance = Tolerance(1e-7, 0.0)
    exact = layer.double().solve(inputs.double()).value
    layer.float()
    for tolerance, (steps, bound) in zip((1e-1, 1e-3), found, strict=True):
        layer.tolerance = Tolerance(tolerance, 0.0)
        error = ((layer.solve(inputs).value - exact).norm(dim=1) / exact.norm(dim=1)).max().item()
        assert 0.0 < error <= bound * (1 + 1e-4) <= tolerance * 1.01 and steps >= 1
    assert certified_errors(torch.nn.Linear(2, 2), torch.zeros(1, 2), (0.1,)) == []


# --- every kind of run ---


def test_runs_on_graphs_have_a_page(small_set, tmp_path, capsys):
    folder, place = tmp_path / "run", ["--data-root", small_set]
    options = ["--variant", "lipschitz", "--width", "8", "--depth", "2", "--epochs", "1", "--batch-size", "16"]
    output_of(capsys, "train", "ignn", "--data", "MUTAG", *options, *place, "--out", folder)
    assert "run `wellposed certify" in output_of(capsys, "report", folder, *place, code=2).err
    output_of(capsys, "attack", folder, *place, "--eps", "1", "--steps", "2")
    shown = output_of(capsys, "report", folder, *place).out
    assert "no certificate (units of node features)" in shown and "withstood every attack up to" in page_of(folder).text
    output_of(capsys, "certify", folder, *place)
    shown = output_of(capsys, "report", folder, *place).out
    page = page_of(folder)
    assert (
        page.tables[0][1:] == rows_of(shown)
        and "test graphs; radii are Euclidean, in units of node features" in page.text
    )
    assert ["layers.0", "ImplicitGraph"] in [row[:2] for row in page.tables[1]]
    assert any("certified relative error" in image["alt"] for image in page.images)


def test_runs_by_regression_have_a_page(tmp_path, capsys):
    folder = tmp_path / "run"
    output_of(capsys, "train", "nemon", "--data", "function-estimation", "--out", folder, *ONCE)
    assert "slope.json: not there yet" in output_of(capsys, "report", folder, code=2).err
    output_of(capsys, "certify", folder, "--norm", "linf")
    said = output_of(capsys, "certify", folder).out
    assert "units of the targets per unit of the inputs" in said
    shown = output_of(capsys, "report", folder).out
    page, found = page_of(folder), unsealed(folder / "slope.json")
    assert said.splitlines()[0] in shown and said.splitlines()[0] in page.text
    assert page.tables[0][1] == ["1000", f"{found['error']:.4g}", f"{found['mean_error']:.4g}"]
    assert [row[0] for row in page.tables[1][1:]] == ["Euclidean", "ℓ∞"]
    assert page.tables[1][1][1:3] == [at_most(found["slope"]), at_least(found["lower_bound"])]
    targets = load_run(folder)[1].test_y.double()
    assert found["mean_error"] == pytest.approx(float(targets.std(correction=0))) and found["is_constant"] is False
    (folder / "slope.json").write_text("{}")
    told = output_of(capsys, "report", folder, code=2).err
    assert "slope.json: corrupt" in told and "run `wellposed certify" in told


def test_own_tables_have_a_page_in_either_task(tmp_path, capsys):
    file = wine(tmp_path)
    folder = tmp_path / "classes"
    output_of(capsys, "train", "mondeq", "--data", file, "--target", "cultivar", "--out", folder, *ONCE)
    output_of(capsys, "certify", folder)
    shown = output_of(capsys, "report", folder).out
    page = page_of(folder)
    assert (
        page.tables[0][1:] == rows_of(shown)
        and "radii are Euclidean, in the columns' own units in wine.csv" in page.text
    )
    assert hashlib.sha256(file.read_bytes()).hexdigest() in page.text and "Nothing has been attacked yet" in page.text
    found = datasets.load_diabetes()
    np.savez(tmp_path / "d.npz", x_train=found.data, y_train=found.target / 100.0)
    folder = tmp_path / "numbers"
    output_of(capsys, "train", "lben", "--data", tmp_path / "d.npz", "--task", "regression", "--out", folder, *ONCE)
    output_of(capsys, "certify", folder)
    output_of(capsys, "report", folder)
    page = page_of(folder)
    assert "the columns' own units in d.npz" in page.text and "Targets between" in page.images[0]["alt"]


def test_what_cannot_be_certified_and_other_norms_have_a_page(finished, tmp_path, capsys):
    folder = tmp_path / "deq"
    output_of(capsys, "train", "deq", "--data", "digits", "--out", folder, *ONCE)
    output_of(capsys, "attack", folder, "--limit", "10", "--steps", "1")
    output_of(capsys, "report", folder)
    page = page_of(folder)
    assert all(row[2:4] == ["–", "–"] for row in page.tables[0][1:]) and "withstood every attack" in page.text
    assert page.tables[1][0] == ["name", "class", "trained numbers"]
    other = tmp_path / "linf"
    shutil.copytree(finished, other)
    for name in ("certified.json", "attacked.json", "adversarial.json"):
        (other / name).unlink()
    output_of(capsys, "certify", other, "--norm", "linf", "--limit", "20")
    ladder = ["--method", "ladder", "--norm", "linf", "--limit", "3", "--eps", "0.01", "--seconds", "2"]
    verdicts = output_of(capsys, "certify", other, *ladder).out
    shown = output_of(capsys, "report", other, "--eps", "0.005", "0.01").out
    page = page_of(other)
    assert "radii are ℓ∞, in pixel units" in shown and page.tables[0][1:] == rows_of(shown)[:2]
    assert page.tables[1][0][3:] == ["open", "decided by"] and page.tables[1][1][:4] == rows_of(verdicts)[0][:4]
    assert "accuracy in %, " in page.text and verdicts.splitlines()[0].partition(": ")[2] in page.text


# --- what a person should conclude ---


def summary(certified, attacked, *, clean=0.9, upper=2.0, lower=1.0, warning=""):
    rows = [
        Row(radius, clean, certified, share, attacked)
        for radius, share in ((0.1, certified), (0.2, certified), (0.3, 0.0))
    ]
    remarks = [warning] if warning else []
    return Summary("run", 200, "images", 1 - clean, upper, lower, rows, remarks, 200, "pixel units", warning)


def test_the_first_sentence_accounts_for_every_input():
    first, _ = conclusions(summary(0.5, 0.7))
    assert "first 200 test images, 50.00 %" in first and "Euclidean radius 0.2 (pixel units)" in first
    assert "attacks broke 20.00 %, 20.00 % remain open, and 10.00 % are misclassified" in first
    assert (
        "75.00 %" in conclusions(summary(0.75, 0.8))[0]
        and "40.00 % are not proved" in conclusions(summary(0.5, None))[0]
    )
    uncertain = Summary("run", 50, "graphs", 0.1, None, None, [Row(0.1, 0.9, None, None, 0.3)], units="feet")
    assert (
        "30.00 % withstood every attack" in conclusions(uncertain)[0]
        and "60.00 % were broken" in conclusions(uncertain)[0]
    )
    rows = [Row(0.1, 0.9, 0.1, 0.2, 0.9), Row(0.2, 0.9, 0.0, 0.0, 0.9), Row(0.3, 0.9, 0.0, 0.0, 0.9)]
    assert "radius 0.1 " in conclusions(Summary("run", 50, "graphs", 0.1, 1.0, 0.5, rows))[0]


def test_the_second_sentence_follows_from_the_numbers():
    said = [
        conclusions(found)[1]
        for found in (
            summary(0.5, 0.52), summary(0.5, 0.8), summary(0.5, 0.8, upper=1.01), summary(0.5, None),
            summary(0.5, 0.5, warning="its predictions are constant"),
            Summary("run", 50, "images", 0.1, None, None, [Row(0.1, 0.9, None, None, 0.3)]),
        )
    ]  # fmt: skip
    assert len(set(said)) == 6
    assert "leave 2.00 % undecided" in said[0] and "to a factor of 2 only" in said[1] and "within 1.00 %" in said[2]
    assert "until the run is attacked" in said[3] and "since its predictions are constant" in said[4]
    assert "Nothing is proved" in said[5]


def estimate(**changes):
    numbers = {"error": 0.5, "slope": 3.0, "lower_bound": 1.5, "mean_error": 1.0, "is_constant": False, **changes}
    return Estimate(norm="2", samples=40, unsolved=0, method="", left_out=(), unfiled="", weights_sha256="", **numbers)


def test_sentences_on_estimates_follow_from_the_numbers():
    first, second = conclusions_on_estimates(estimate())
    assert "40 test inputs the estimates are 0.5 off" in first and "explain 75.00 %" in first
    assert "more than 3 times" in second and "factor of 2" in second
    assert "within 5.00 %" in conclusions_on_estimates(estimate(slope=1.575))[1]
    assert "no closer to the targets" in conclusions_on_estimates(estimate(error=1.0))[1]
    assert "constant" in conclusions_on_estimates(estimate(is_constant=True))[1]
    assert "variance" not in conclusions_on_estimates(estimate(mean_error=None))[0]


def test_nothing_learned_is_said_first(finished, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    for name in ("certified.json", "attacked.json"):
        (folder / name).write_text(json.dumps({**unsealed(folder / name), "classes_named": 1}))
    shown = output_of(capsys, "report", folder).out
    words = "its predictions are constant: it has learned nothing"
    text = page_of(folder).text
    assert shown.startswith(f"{folder}: {words}")
    assert text.index("Its predictions are constant") < text.index("Of the first")
    assert "Its predictions" not in page_of(finished).text
    out = tmp_path / "out"
    output_of(capsys, "compare", finished, folder, "--out", out)
    text = Page((out / "compare.html").read_text(encoding="utf-8")).text
    assert text.index(f"run: {words}") < text.index("clean, %")


# --- several runs ---


def test_the_page_of_several_runs_has_the_terminals_table(finished, tmp_path, capsys):
    other, out = tmp_path / "other", tmp_path / "out"
    shutil.copytree(finished, other)
    (other / "attacked.json").unlink()
    shown = output_of(capsys, "compare", finished, other, "--eps", "0.1", "0.2", "0.4", "--out", out).out
    content = (out / "compare.html").read_text(encoding="utf-8")
    page = Page(content)
    first = [line.split() for line in shown.splitlines()[1:3]]
    assert [[part for cell in row for part in cell.split()] for row in page.tables[0][1:]] == first
    assert page.tables[1][1:] + page.tables[2][1:] == rows_of(shown)
    assert len(page.images) == 4 and all("digits" in image["alt"] and "other" in image["alt"] for image in page.images)
    assert f"wellposed compare {finished} {other}" in page.text and "different things" not in page.text
    for part in ("aria-sort", 'createElement("button")', "tabindex"):  # sorted by mouse and keys
        assert part in content


def test_runs_are_told_apart_by_as_many_folders_as_it_takes():
    told = {
        ("a/run", "b/run"): ["a/run", "b/run"], ("a/run", "b/other"): ["run", "other"],
        ("a/x/run", "b/x/run", "run"): ["a/x/run", "b/x/run", f"{Path.cwd().name}/run"],
        ("/run", "/a/run", "/a/run"): ["/run", "a/run", "a/run"], ("a/../b/run", "run/."): ["b/run", f"{Path.cwd().name}/run"],
    }  # fmt: skip
    assert [names_of(runs) for runs in told] == list(told.values())


def test_runs_of_one_name_are_told_apart_everywhere(finished, tmp_path, capsys):
    first, second = tmp_path / "first" / "run", tmp_path / "second" / "run"
    for folder in (first, second):
        shutil.copytree(finished, folder)
    out = tmp_path / "out"
    shown = output_of(capsys, "compare", first, second, "--eps", "0.1", "--out", out).out.splitlines()
    names = ["first/run", "second/run"]
    assert [line.split()[0] for line in shown[1:3]] == names
    content = (out / "compare.html").read_text(encoding="utf-8")
    page = Page(content)
    assert [row[0] for row in page.tables[0][1:]] == names
    assert all(name in image["alt"] for name in names for image in page.images)
    for name in names:  # the legend, the title of its table, the provenance
        assert f"</span> {name}" in content and f"<h2>{name}</h2>" in content and f"<dt>{name}</dt>" in content
    assert all(f"<!-- {name} -->" in (out / "compare.svg").read_text(encoding="utf-8") for name in names)


def test_runs_by_regression_of_one_name_are_told_apart(tmp_path, capsys):
    run = tmp_path / "first" / "run"
    output_of(capsys, "train", "nemon", "--data", "function-estimation", "--out", run, *ONCE)
    output_of(capsys, "certify", run)
    shutil.copytree(run, tmp_path / "second" / "run")
    out = tmp_path / "out"
    shown = output_of(capsys, "compare", run, tmp_path / "second" / "run", "--out", out).out.splitlines()
    assert [line.split()[0] for line in shown[1:3]] == ["first/run", "second/run"]
    content = (out / "compare.html").read_text(encoding="utf-8")
    assert [row[0] for row in Page(content).tables[0][1:]] == ["first/run", "second/run"]
    assert "<dt>second/run</dt>" in content


def test_radii_of_different_units_are_told(finished, tmp_path, capsys):
    file = wine(tmp_path)
    folder = tmp_path / "wine"
    output_of(capsys, "train", "mondeq", "--data", file, "--target", "cultivar", "--out", folder, *ONCE)
    output_of(capsys, "certify", folder)
    shown = output_of(capsys, "compare", finished, folder, "--out", tmp_path / "out").out
    told = "means different things here: units are pixel units (digits), the columns' own units in wine.csv (wine)."
    assert told in shown and told in Page((tmp_path / "out" / "compare.html").read_text(encoding="utf-8")).text


def test_errors_in_the_units_of_targets_have_their_own_axis():
    metrics = [{"epoch": n, "train/loss": 0.1**n, "validation/mean_squared_error": 1e4 * 0.1**n} for n in range(3)]
    losses, errors = training(metrics).figure.axes
    assert losses.get_ylim()[1] < 10 and errors.get_ylim()[0] > 10
    assert errors.get_visible() and errors.get_ylabel() == "mean squared error"


def test_points_of_runs_are_seen_and_ticks_do_not_touch():
    def entry(name, parameters, certified, attacked):
        row = Row(0.1, 0.9, 0.0, certified, attacked)
        facts = SimpleNamespace(parameters=parameters, seconds=1.0, iterations=5.0)
        return SimpleNamespace(
            at=lambda _: row, facts=facts, summary=SimpleNamespace(run=name, warning="", units="pixel units")
        )

    figure, axes = panels(figsize=(4.4, 3.3))
    _panel(axes, [entry("a", 387, 0.5, 0.5), entry("b", 4060, 0.2, 0.7)], 0.1, 1)
    hollow, filled = (line for line in axes.get_lines() if list(line.get_xdata()) == [387])
    assert hollow.get_markersize() > filled.get_markersize() and hollow.get_zorder() <= filled.get_zorder()
    figure.canvas.draw()
    low, high = axes.get_xlim()
    labels = [axis for axis in (*axes.get_xticklabels(), *axes.get_xticklabels(minor=True)) if axis.get_text()]
    boxes = [axis.get_window_extent() for axis in labels if low <= axis.get_position()[0] <= high]
    assert len(boxes) >= 2
    assert not any(first.overlaps(other) for place, first in enumerate(boxes) for other in boxes[:place])

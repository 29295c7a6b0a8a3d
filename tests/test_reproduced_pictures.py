"""Pictures and pages of recipes: what a reader sees is decided by the records."""

from __future__ import annotations

import dataclasses
import re
import warnings
from pathlib import Path

import matplotlib as mpl
import pytest

from wellposed.cli.main import run as command
from wellposed.models.families import FAMILIES
from wellposed.reproduction import pages
from wellposed.reproduction.cell import Record, Workspace
from wellposed.reproduction.collection import RECIPES
from wellposed.reproduction.networks import DamagedRunWarning, facts, settings_of, trained
from wellposed.reproduction.papers.lben import well_posed
from wellposed.reproduction.papers.monotone import accuracy
from wellposed.reproduction.papers.pcdeq.architectures import ARCHITECTURES
from wellposed.reproduction.pictures import counts, draw, looks, spans_decades, together
from wellposed.reproduction.published_settings import settings_beside
from wellposed.reproduction.view import Figure, Published, Series, figures_of, published_points, published_range
from wellposed.training.config import TrainConfig
from wellposed.training.run import load_run

pytestmark = pytest.mark.float32

CONFIG = TrainConfig(FAMILIES["lben"](width=4), "digits", epochs=1, validation=0.0)

RECORDS = Path(__file__).parents[1] / "docs" / "records" / "papers"
TABLE, RANGE = Published(2.0, "Table 9", 0.5), Published(4.0, "Section 1", 0.5, upto=6.0)


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draws a figure and gives its axes."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    kept = []
    monkeypatch.setattr(plt, "close", kept.append)

    def axes_of(figure, **options):
        draw(figure, tmp_path, "Figure 0: halves", **options)
        return kept[-1].axes[0]

    yield axes_of
    monkeypatch.undo()
    plt.close("all")


def figure(*series, y="constant"):
    return Figure("own", "Constants grow with the depth of the networks.", "depth", y, series)


def test_axes_are_logarithmic_where_numbers_span_decades(drawn):
    wide, narrow, percent = [1.0, 200.0, 3.0], [1.0, 50.0, 3.0], [0.1, 90.0, 50.0]
    for y, label, scale in (
        (wide, "constant", "log"),
        (narrow, "constant", "linear"),
        (percent, "accuracy, %", "linear"),
    ):
        assert drawn(figure(Series("a", [1, 2, 3], y), y=label)).get_yscale() == scale
    assert drawn(figure(Series("a", [0.01, 1, 3], narrow))).get_xscale() == "log"
    for of in "log₁₀ of the bound", "log of it":
        assert drawn(figure(Series("a", [1, 2, 3], wide), y=of)).get_yscale() == "linear"  # no logarithm of logarithms
    assert drawn(figure(Series("a", [1, 2, 3], [-0.5, 3.0, 270.0]))).get_yscale() == "linear"
    assert drawn(figure(Series("a", [1, 2, 3], [0.0, 3.0, 27.0]))).get_yscale() == "linear"
    assert counts([1, 3, 2, 2, 1]) and not counts([1, 10, 100]) and not counts([3]) and not counts([0.5, 1.5])
    assert not spans_decades([0.0, 1.0, 1e6]) and not spans_decades([-1.0, 1e6]) and not spans_decades([])


def test_depths_and_epochs_have_whole_ticks_and_other_abscissae_their_own(drawn):
    whole = drawn(figure(Series("a", [1, 2, 3], [1.0, 2.0, 3.0])))
    assert all(float(tick).is_integer() for tick in whole.get_xticks())
    parts = drawn(figure(Series("a", [0.1, 0.2, 0.3], [1.0, 2.0, 3.0])))
    assert not all(float(tick).is_integer() for tick in parts.get_xticks())


def test_titles_are_there_and_legends_cover_no_curve(drawn):
    axes = drawn(figure(Series("a", [1, 2], [1.0, 2.0]), Series("b", [1, 2], [2.0, 1.0])))
    axes.figure.canvas.draw()
    assert not axes.get_legend().get_window_extent().overlaps(axes.get_window_extent())
    texts = [*(text.get_text() for text in axes.texts), axes.get_title(loc="left")]
    assert texts == ["Figure 0: halves", "Constants grow with the depth of the networks."]
    boxes = [text.get_window_extent() for text in (*axes.texts, axes._left_title)]
    assert not boxes[0].overlaps(boxes[1])
    assert drawn(figure(Series("a", [1, 2], [1.0, 2.0]))).get_legend() is None


def test_published_points_look_like_the_curve_that_they_are_compared_with(drawn):
    curves = Series("a", [1], [1.0]), Series("b", [1], [1.5]), Series("a", [1], [2.0], published=True)
    assert looks(curves)[0] == looks(curves)[2] != looks(curves)[1]
    assert len(drawn(figure(*curves)).lines) == 3 and len(drawn(figure(*curves), compare=False).lines) == 2


def test_published_numbers_are_hollow_and_named(drawn):
    known = {1: TABLE, 2: None, 3: RANGE}
    points, band = published_points("a", known), published_range("all", [1, 2, 3], RANGE)
    assert [(each.x, each.y) for each in points] == [([1], [2.0])] and published_points("a", {1: None, 2: RANGE}) == []
    assert (band.x, band.y, band.spread) == ([1, 3], [5.0, 5.0], [1.0, 1.0])
    assert published_range("one", [1, 3], TABLE).spread == [0.5, 0.5]  # its precision
    axes = drawn(figure(Series("a", [1, 2, 3], [1.0, 2.0, 3.0]), *points, band))
    ours, theirs = axes.lines
    assert theirs.get_markerfacecolor() == "none" and ours.get_markerfacecolor() != "none"
    assert theirs.get_color() == ours.get_color() and theirs.get_linestyle() == "None"
    (area,) = axes.collections
    assert not len(area.get_facecolor()) and area.get_hatch()
    assert list(area.get_datalim(axes.transData).intervaly) == [4.0, 6.0]
    said = [text.get_text() for text in axes.get_legend().get_texts()]
    assert said == ["a", "a (published)", "all (published)"]


def test_networks_outside_of_a_sweep_are_marks_of_their_own(drawn):
    axes = drawn(
        figure(Series("over γ", [1, 2], [1.0, 2.0]), Series("alone", [3, 4], [1.0, 2.0], [0.1, 0.1], joined=False))
    )
    curve, marks = axes.lines
    assert curve.get_linestyle() == "-" and marks.get_linestyle() == "None" and marks.get_marker() == "D"
    assert len(axes.collections) == 1  # bars of the spread, and no area between marks


def test_curves_that_coincide_are_one_under_both_names(drawn):
    same = Series("a", [1, 2], [1.0, 2.0]), Series("b", [1, 2], [1.0001, 2.0]), Series("c", [1, 2], [1.5, 2.0])
    points = Series("b", [1], [3.0], published=True)
    axes = drawn(figure(*same, points))
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a\nb", "c", "b (published)"]
    assert axes.lines[0].get_color() == axes.lines[2].get_color() != axes.lines[1].get_color()
    assert [len(group) for group in together([*same, points, points])] == [2, 1, 1, 1]


def test_an_axis_may_end_below_the_greatest_number(drawn):
    curve = Series("a", [1, 2, 3], [-1.0, 2.0, 800.0], [1.0, 0.0, 0.0])
    low, high = drawn(dataclasses.replace(figure(curve, y="log₁₀ of the bound"), upto=30.0)).get_ylim()
    assert high == 30.0 and -5.0 < low < -2.0


@pytest.mark.parametrize(("y", "ticks"), [([3.0, 40.0], {"5", "20"}), ([1.0, 1.5], {"1", "1.2"}), ([1.0, 1e5], set())])
def test_ticks_of_short_logarithmic_axes_are_plain_numbers(drawn, y, ticks):
    axes = drawn(dataclasses.replace(figure(Series("a", [1, 2], y)), logarithmic=True))
    axes.figure.canvas.draw()
    low, high = axes.get_ylim()
    shown = {text.get_text() for text in axes.get_yticklabels() if low <= text.get_position()[1] <= high}
    assert ticks <= shown and all(("10^" in text) == (not ticks) for text in shown)


def _views():
    for entry in RECIPES.values():
        found = pages.result_of(entry, RECORDS)
        if found is not None:
            yield entry, pages.explained(entry, found[0], RECORDS)


def test_figures_show_what_is_published_of_them():
    of_others = {"lben-well-posed"}  # errors of networks are published, the figure is of random matrices
    for entry, view in _views():
        figures = figures_of(view)
        known = [row for part in view for row in part.quantities if row.published is not None]
        comparable = [row for row in known if row.setting != "ignn-lipschitz"]
        if figures and comparable and entry.name not in of_others:
            assert any(series.published for one in figures for series in one.series), entry.name


def test_published_points_of_figures_are_those_of_their_tables():
    for entry, view in _views():
        known = [row.published for part in view for row in part.quantities if row.published is not None]
        values = {round(found.value, 6) for found in known} | {round(100.0 - found.value, 6) for found in known}
        points = {
            round(y, 6)
            for one in figures_of(view)
            for each in one.series
            if each.published and not each.spread
            for y in each.y
        }
        more = {"monotone-fig4b"}  # its figure has more radii than its table
        assert points <= values or entry.name in more, (entry.name, points - values)


def test_what_deviates_without_a_trial_has_a_reason_that_can_be_checked():
    for entry, view in _views():
        if entry.explains():
            continue
        for row in (row for part in view for row in part.quantities):
            if row.published is not None and row.published.incomparable and row.deviates and "ested" not in row.remark:
                assert re.search(r"\d", row.published.incomparable), (entry.name, row)
    trained_less = [row for part in dict(_named())["monotone-accuracy"] for row in part.quantities if row.remark]
    assert [row.remark.partition(" Tested")[0] for row in trained_less[-2:]] == [
        "2 of the published 40 epochs.",
        "1 of the published 40 epochs.",
    ]


def _named():
    return ((entry.name, view) for entry, view in _views())


def test_networks_without_a_prescribed_constant_are_not_on_the_curve():
    views = dict(_named())
    for name, without in (("lben-bounds", {"γ = ∞", "monDEQ"}), ("lben-cifar-dense", {"γ = ∞", "monDEQ"})):
        (picture,) = figures_of(views[name])
        alone = {each.label.partition(", ")[0] for each in picture.series if not each.joined}
        assert alone == without
        curves = [each for each in picture.series if each.joined and not each.published]
        assert len(curves) == 2 and all(list(each.x) == sorted(each.x) for each in curves)


def test_accuracies_that_others_quote_say_so():
    for known in (accuracy.MNIST, accuracy.CIFAR):
        assert all("second-hand" in published.source for _, published in known.values())
    assert "(Winston & Kolter 2020, Table 1, quoted second-hand)" in pages.page("monotone", RECORDS, "figures")


def test_settings_that_differ_from_the_papers_are_named():
    record = Record("t", {"config": settings_of(dataclasses.replace(CONFIG, epochs=15))}, {})
    other = Record("t", {"config": settings_of(dataclasses.replace(CONFIG, epochs=20))}, {})
    published = {
        "lben": {"epochs": 40, "batch_size": CONFIG.batch_size, "family.epsilon": "m = 1"},
        "nemon": {"epochs": 3},
    }
    words = settings_beside(published, [record, other, Record("t", {"scale": 1.0}, {})])
    assert (
        words
        == "Settings of lben networks here and, in brackets, in the paper: epochs 15 or 20 (40), epsilon 0.01 (m = 1)."
    )
    assert settings_beside({"lben": {"epochs": 15}}, [record]) == ""


def test_data_that_stand_in_are_named(tmp_path):
    architecture = ARCHITECTURES[0]
    recipe = RECIPES[architecture.name]
    rows = [{"accuracy": 50.0, "forward": 3.0, "backward": 4.0, "singular_value": 2.5}] * 2
    measured = {"test_error": 50.0, "majority_error": 90.0, "classes_named": 10, "parameters": 5, "epochs": rows}
    cells = recipe.cells(True)
    records = [Record(cell.task, dict(cell.settings), measured) for cell in cells]
    assert "Trained on digits, not on mnist." in pages.as_text(recipe, records, quick=True)
    assert "at most 2.5." in pages.as_text(recipe, records, quick=True)
    assert pages.title_of(recipe, records, True).endswith("(quick run on digits)")
    full = [Record(cell.task, dict(cell.settings), measured) for cell in recipe.cells(False)]
    assert "Trained on" not in pages.as_text(recipe, full) and "quick" not in pages.title_of(recipe, full, False)


def test_what_is_said_of_random_matrices_is_what_was_measured():
    measured = {
        "monotone": 10.0,
        "row sums": 0.0,
        "absolute values": 5.0,
        "log norm": 20.0,
        "metric": 30.0,
        "not refuted": 42.0,
    }
    record = Record("random_matrices", {"scale": 0.5}, measured)
    sentence = well_posed.conditions([record])[1].sentence
    assert "at no scale fewer" in sentence and "up to 30 % more" in sentence and "up to 12 % are neither" in sentence
    other = dataclasses.replace(record, measured={**measured, "log norm": 35.0})
    assert "fewer by the metric of the LBEN paper than by μ_∞ < 1" in well_posed.conditions([record, other])[1].sentence


@pytest.mark.parametrize("damaged", ["weights.safetensors", "config.toml"])
def test_a_damaged_network_is_trained_again_with_a_remark(tmp_path, damaged):
    workspace = Workspace(tmp_path, None)
    run = trained(workspace, CONFIG)
    before = facts(workspace, run, 20)["test_error"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", DamagedRunWarning)
        assert trained(workspace, CONFIG) == run
    (run / damaged).write_bytes((run / damaged).read_bytes()[:50])
    with pytest.warns(DamagedRunWarning, match=run.name):
        trained(workspace, CONFIG)
    assert load_run(run)[0] == CONFIG and facts(workspace, run, 20)["test_error"] == before


def test_a_wrong_name_suggests_the_nearest(capsys):
    assert command(["reproduce", "monotone-fig44a"]) == 2
    said = capsys.readouterr().err
    assert "'monotone-fig4a'" in said and "--list" in said and "pcdeq" not in said and len(said) < 300
    assert command(["reproduce", "xyzzy"]) == 2
    said = capsys.readouterr().err
    assert "--list" in said and "did you mean" not in said

"""Pictures and pages of recipes: what a reader sees is decided by the records."""

from __future__ import annotations

import dataclasses
import warnings

import matplotlib as mpl
import pytest

from wellposed.cli.main import run as command
from wellposed.models.families import FAMILIES
from wellposed.reproduction import pages
from wellposed.reproduction.cell import Record, Workspace
from wellposed.reproduction.collection import RECIPES
from wellposed.reproduction.networks import DamagedRunWarning, facts, settings_of, trained
from wellposed.reproduction.papers.lben import well_posed
from wellposed.reproduction.papers.pcdeq.architectures import ARCHITECTURES
from wellposed.reproduction.pictures import counts, draw, looks, spans_decades
from wellposed.reproduction.published_settings import settings_beside
from wellposed.reproduction.view import Figure, Series
from wellposed.training.config import TrainConfig
from wellposed.training.run import load_run

pytestmark = pytest.mark.float32

CONFIG = TrainConfig(FAMILIES["lben"](width=4), "digits", epochs=1, validation=0.0)


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
    assert drawn(figure(Series("a", [1, 2, 3], [-0.5, 3.0, 270.0]))).get_yscale() == "symlog"
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
    curves = Series("a", [1], [1.0]), Series("b", [1], [1.0]), Series("a", [1], [2.0], published=True)
    assert looks(curves)[0] == looks(curves)[2] != looks(curves)[1]
    assert len(drawn(figure(*curves)).lines) == 3 and len(drawn(figure(*curves), compare=False).lines) == 2


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

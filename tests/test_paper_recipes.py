"""Recipes of positive concave and of orthogonal networks; what tables say of networks that have learned nothing."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from wellposed.data import load_images
from wellposed.errors import InputError
from wellposed.experiments.graph_folds import PRESETS, FoldRun, chosen_accuracies, summarise_folds
from wellposed.experiments.graph_folds import as_markdown as folds_markdown
from wellposed.experiments.graph_folds import as_text as folds_text
from wellposed.experiments.iterations import iterations, iterations_of_training
from wellposed.experiments.learning import learned
from wellposed.experiments.presets import Record as PresetRecord
from wellposed.experiments.presets import as_markdown as presets_markdown
from wellposed.experiments.results import Attacked, Certified, keep_attacked, keep_certified
from wellposed.experiments.tables import summarise
from wellposed.layers import ConvPcDEQ, PcDEQ
from wellposed.reproduction.cell import Record, Workspace, record_of
from wellposed.reproduction.networks import trained
from wellposed.reproduction.papers.orthogonal import graphs, images
from wellposed.reproduction.papers.orthogonal.graph_sets import SETS
from wellposed.reproduction.papers.pcdeq import networks
from wellposed.reproduction.papers.pcdeq.architectures import ARCHITECTURES
from wellposed.reproduction.view import Figure, Table
from wellposed.reproduction.watching import operator_norm
from wellposed.training.config import TrainConfig
from wellposed.training.files import file_digest
from wellposed.training.folder import RunFolder
from wellposed.training.run import load_image_run

pytestmark = pytest.mark.float32


@pytest.mark.parametrize(
    ("predictions", "labels", "words"),
    [
        ([1, 1, 1, 1], [1, 1, 0, 1], "constant"),
        ([0, 1, 1, 1], [1, 1, 0, 1], "no less often"),  # half wrong, a fourth for the larger class
        ([1, 0, 1, 1], [1, 1, 0, 0], "no less often"),  # half wrong, as whoever names either class
        ([1, 1, 0, 1], [1, 1, 0, 1], ""),
        ([2, 1, 0, 1], [2, 1, 0, 0], ""),
    ],
)
def test_who_has_learned_nothing(predictions, labels, words):
    found = learned(torch.tensor(predictions), torch.tensor(labels))
    assert words in found.remark and bool(words) == bool(found.remark)
    wrong = sum(a != b for a, b in zip(predictions, labels, strict=True)) / len(labels)
    assert found.error == wrong and found.classes_named == len(set(predictions))
    assert found.majority_error == 1 - max(labels.count(c) for c in labels) / len(labels)


def test_results_and_tables_say_that_nothing_was_learned():
    old = Certified(2.0, 1.0, 0.5, {"gap": [0.5, 0.0]}, "")
    assert (
        old.remarks == [] and Attacked([0.0, 1.0], 1, [0.1], "").remarks == []
    )  # as files of earlier versions are read
    new = dataclasses.replace(old, majority_error=0.5, classes_named=1)
    assert "constant" in Certified(**json.loads(json.dumps(vars(new)))).remarks[0]
    assert "no less often" in Attacked([0.0, 1.0], 1, [0.1], "", 0.5, 2).remarks[0]
    assert Attacked([0.0, 1.0, 1.0], 1, [0.1], "", 0.5, 2).remarks == []
    record = PresetRecord("p", "mondeq", 4, 0, 0.5, 2.0, 1.0, 1.0, [0.5] * 5, 1.0, {})
    assert "remarks" not in presets_markdown([record])
    assert "constant" in presets_markdown([record, dataclasses.replace(record, remarks=new.remarks)])


def test_rows_of_few_inputs_say_that_nothing_was_learned_of_these(tmp_path):
    """All five certified inputs tell something, the two that were attacked do not."""
    weights = RunFolder(tmp_path).weights
    weights.write_bytes(b"weights")
    digest = file_digest(weights)
    radii = {"paper": [0.5, 0.0, 0.5, 0.5, 0.5]}
    keep_certified(tmp_path, Certified(2.0, 1.0, 0.2, radii, digest, majority_error=0.6, classes_named=3))
    assert summarise(tmp_path, [0.1]).warning == ""
    keep_attacked(tmp_path, Attacked([0.6, 0.0], 1, [0.1], digest, 0.5, 2))
    summary = summarise(tmp_path, [0.1])
    assert summary.samples == 2 and "on the first 2 images" in summary.warning and summary.remarks[0] == summary.warning


@pytest.mark.parametrize("layer", [PcDEQ(5, 7), ConvPcDEQ(2, 3, (4, 5))])
def test_the_largest_singular_value_is_that_of_the_matrix(layer):
    exact = float(torch.linalg.svdvals(layer.operator().dense().detach().double())[0])
    with torch.no_grad():
        assert operator_norm(layer.operator()) == pytest.approx(exact, rel=1e-4)


def test_iterations_are_those_of_the_solves():
    layer = PcDEQ(5, 7)
    model = torch.nn.Sequential(layer, torch.nn.Linear(7, 3)).eval()
    x, y = torch.randn(6, 5), torch.arange(6) % 3
    solution = layer.solve(x)
    torch.nn.functional.cross_entropy(model[1](solution.value), y).backward()
    forward, backward = iterations_of_training(model, x, y)
    assert forward == iterations(model, x) == float(solution.steps.double().mean())
    assert backward == float(solution.adjoint_reports[0].steps.double().mean()) > 0
    assert iterations(model[1], torch.randn(6, 7)) is None


@pytest.fixture(scope="module")
def positive(tmp_path_factory):
    workspace = Workspace(tmp_path_factory.mktemp("positive"), None)
    cells = networks.network_cells(ARCHITECTURES[0], True)
    return workspace, [record_of(workspace, cell) for cell in (cells[0], cells[-1])]


def test_networks_are_measured_after_every_epoch(positive):
    workspace, records = positive
    for record in records:
        config = TrainConfig.from_dict(record.settings["config"])
        rows = record.measured["epochs"]
        assert len(rows) == config.epochs and rows[-1]["singular_value"] != rows[0]["singular_value"]
        _, data, model = load_image_run(trained(workspace, config, watched=record.settings["images"]))
        x, y = data.test_x[:200], data.test_y[:200]
        with torch.no_grad():
            assert rows[-1]["accuracy"] == pytest.approx(
                100 * float((model(x).argmax(1) == y).double().mean()), abs=0.6
            )
        layer = next(part for part in model.modules() if isinstance(part, PcDEQ))
        exact = float(torch.linalg.svdvals(layer.operator().dense().detach())[0])
        assert rows[-1]["singular_value"] == pytest.approx(exact, rel=1e-3)


def test_watching_changes_nothing(positive):
    workspace, (record, _) = positive
    config = TrainConfig.from_dict(record.settings["config"])
    runs = trained(workspace, config, watched=record.settings["images"]), trained(workspace, config)
    watched, alone = (load_image_run(run)[2].state_dict() for run in runs)
    assert all(torch.equal(value, alone[name]) for name, value in watched.items() if torch.is_tensor(value))


def test_what_is_shown_of_positive_networks(positive):
    table, *figures = networks.over_training(ARCHITECTURES[0], positive[1])
    assert isinstance(table, Table) and {row.setting for row in table.quantities} == {
        "pcDEQ-1, tanh",
        "pcDEQ-2, sigmoid",
    }
    by_name = {(row.setting, row.name): row.mean for row in table.quantities}
    last = positive[1][0].measured["epochs"][-1]
    assert by_name["pcDEQ-1, tanh", "forward iterations"] == last["forward"]
    for figure, curves in zip(figures, (2, 4, 2), strict=True):
        assert isinstance(figure, Figure) and len(figure.series) == curves
    assert list(figures[0].series[0].y) == [row["accuracy"] for row in positive[1][0].measured["epochs"]]
    assert all(cell.settings["config"]["family"]["parametrisation"] == "projection"
               for each in ARCHITECTURES for cell in networks.network_cells(each, False))  # fmt: skip


# One seed, two folds, three epochs: accuracies on the tenths to test on and to choose with.
FOLDS = {
    ("ignn", 0): ([60.0, 80.0, 70.0], [50.0, 40.0, 50.0]), ("ignn", 1): ([50.0, 60.0, 90.0], [90.0, 40.0, 50.0]),
    ("ignn-orthogonal", 0): ([70.0, 70.0, 70.0], [1.0, 2.0, 3.0]), ("ignn-orthogonal", 1): ([50.0, 60.0, 40.0], [3.0, 2.0, 1.0]),
    ("ignn-lipschitz", 0): ([60.0, 60.0, 60.0], [50.0, 50.0, 50.0]), ("ignn-lipschitz", 1): ([60.0] * 3, [50.0] * 3),
}  # fmt: skip
# By hand: best per fold, best common (epochs 3, 2 and 3), last, validated; of equally good epochs the latest.
BY_HAND = {
    "ignn": (85.0, 80.0, 80.0, 60.0), "ignn-orthogonal": (65.0, 65.0, 55.0, 60.0), "ignn-lipschitz": (60.0,) * 4,
}  # fmt: skip


def fold_runs():
    return {
        (preset, 0, fold): FoldRun(test, validation, 60.0, 1 if preset == "ignn-lipschitz" else 2, 1.0)
        for (preset, fold), (test, validation) in FOLDS.items()
    }


def test_table_1_is_what_the_folds_give_by_hand():
    config = {"seed": 0, "epochs": 3, "family": {"width": 4, "dropout": 0.5}}
    records = [
        Record("graph_fold", {"preset": preset, "config": {**config, "fold": fold}}, dataclasses.asdict(run))
        for (preset, _, fold), run in fold_runs().items()
    ]
    absolute, paired, figure = graphs.accuracies(SETS[0], records)
    found = {(row.name.split(",")[0], row.setting): row for row in absolute.quantities}
    conventions = ("best per fold", "best common", "last", "validated")
    for preset, values in BY_HAND.items():
        for convention, value in zip(conventions, values, strict=True):
            row = found[preset, convention]
            assert row.mean == pytest.approx(value, abs=1e-4)
            assert ("no better than the larger class" in row.remark) == (value <= 60.0)
            assert (row.published is not None) == (convention == "best per fold")
            assert ("constant in 2 of 2" in row.remark) == (preset == "ignn-lipschitz" and convention == "last")
    assert found["always naming the larger class", "–"].mean == 60.0
    differences = {(row.name.split()[0], row.setting): row for row in paired.quantities}
    row = differences["ignn-orthogonal", "best per fold"]  # −10 and −30
    assert row.mean == pytest.approx(-20.0) and "standard error 10.0" in row.remark
    assert list(figure.series[0].y) == [55.0, 70.0, 80.0] and list(figure.series[3].y) == [60.0, 60.0]
    marks = {(each.label, each.published): (list(each.x), list(each.y)) for each in figure.series[4:]}
    assert marks["ignn, best per fold", False] == ([3.0], [pytest.approx(BY_HAND["ignn"][0], abs=1e-4)])
    assert marks["ignn, best per fold", True] == ([3.0], [SETS[0].published[0]]) and len(marks) == 5
    for said in (absolute.title, paired.title, figure.sentence):
        assert "one seed (0)" in said and "seeds" not in said.replace("one seed", "")
    assert "± in remarks is over folds" in absolute.title
    more = [
        dataclasses.replace(record, settings={**record.settings, "config": {**record.settings["config"], "seed": seed}})
        for record in records for seed in (0, 2)
    ]  # fmt: skip
    assert all("seeds 0, 2" in said for said in (part.title for part in graphs.accuracies(SETS[0], more)[:2]))


def test_summaries_of_folds_name_the_larger_class():
    summary = summarise_folds("MUTAG", 3, 0.5, fold_runs())
    for text in (folds_text(summary), folds_markdown(summary)):
        assert "larger class" in text and "constant in 2 of 2 runs" in text and "60.0" in text
    old = dataclasses.replace(summary, majority=None, constant={}, as_majority={})  # records of earlier versions
    assert "larger class" not in folds_markdown(old)
    runs = fold_runs()
    del runs[PRESETS[1], 0, 1]
    with pytest.raises(InputError, match="ignn-orthogonal with seed 0 on fold 1"):
        chosen_accuracies(runs)


def test_table_2_shows_both_networks_at_every_setting():
    full = [cell for cell in images.grid_cells(False) if cell.measure is images.cifar_network]
    assert len(full) == 2 * 5 * 3  # five of six settings differ
    records = [
        Record("cifar_network", dict(cell.settings), {
            "test_error": 20.0 + cell.settings["config"]["seed"], "train_error": 10.0, "majority_error": 90.0,
            "classes_named": 10, "iterations": 5.0, "lipschitz": 0.9, "certified": {"pairs": [30.0, 20.0, 10.0]},
        }) for cell in full
    ]  # fmt: skip
    published, own, figure = images.errors(records)
    first = published.quantities[0]
    assert first.mean == pytest.approx(21.0) and first.published.value == 24.91 and first.verdict == "better"
    assert sum(row.name == "test error, %" for row in published.quantities) == 6
    assert all(row.published is None for row in own.quantities) and own.quantities[3].mean == pytest.approx(0.9)
    assert {len(series.x) for series in figure.series} == {5}


def test_digits_stand_in_for_the_sets_of_quick_runs():
    assert load_images("digits").test_x.shape[1:] == (1, 8, 8)
    quick = [cell for each in ARCHITECTURES if not each.missing for cell in networks.network_cells(each, True)]
    assert all(cell.settings["config"]["data"] == "digits" for cell in [*quick, *images.grid_cells(True)])

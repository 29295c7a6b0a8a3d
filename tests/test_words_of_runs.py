"""What commands say of runs that are missing, stale, not finite or of several kinds, and what training refuses."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from torch import nn

import wellposed as wp
from wellposed.cli.main import run
from wellposed.data import from_arrays
from wellposed.errors import InputError, OptionError
from wellposed.training.checkpoint import save_weights
from wellposed.training.folder import read_environment
from wellposed.training.run import load_run

pytestmark = [pytest.mark.float32, pytest.mark.usefixtures("short_search")]
pytest.importorskip("lightning")
OPTIONS = ["--epochs", "4", "--width", "4", "--batch-size", "20"]


def write(path, scale, rows=60):
    draws = np.random.default_rng(0).normal(size=(rows, 2))
    lines = [f"{scale * a},{scale * b},{int(a > 0)},{a + b}" for a, b in draws.tolist()]
    path.write_text("\n".join(["a,b,kind,sum", *lines]), encoding="utf-8")
    return path


def output_of(capsys, words, code=0):
    capsys.readouterr()
    assert run([str(word) for word in words]) == code
    return capsys.readouterr()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs on one table, one on another table, and two by regression; the first certified and attacked."""
    place = tmp_path_factory.mktemp("runs")
    tables = {"fine": write(place / "fine.csv", 1.0), "coarse": write(place / "coarse.csv", 100.0)}
    for name, data, options in (
        ("one", "fine", []), ("two", "fine", ["--seed", "1"]), ("three", "coarse", []),
        ("sums", "fine", ["--task", "regression"]), ("others", "coarse", ["--task", "regression"]),
    ):  # fmt: skip
        target = "sum" if "regression" in options else "kind"
        words = ["--data", str(tables[data]), "--target", target, *OPTIONS, *options, "--out", str(place / name)]
        assert run(["train", "feedforward", *words]) == 0
        assert run(["certify", str(place / name)]) == 0
    assert run(["attack", str(place / "one"), "--limit", "5", "--steps", "3"]) == 0
    return place


@pytest.mark.parametrize("words", [["report"], ["compare"], ["compare", "RUN"]])
def test_folders_that_do_not_exist(words, runs, tmp_path, capsys):
    words = [runs / "one" if word == "RUN" else word for word in words]
    missing = tmp_path / "nowhere"
    assert (
        f"{missing}: not a run folder (there is no such folder); give the --out"
        in output_of(capsys, [*words, missing], 2).err
    )
    assert not missing.exists()
    assert f"{tmp_path}: not a run folder (no config.toml)" in output_of(capsys, [*words, tmp_path], 2).err


def test_results_about_other_weights_are_left_out_with_a_word(runs, tmp_path, capsys):
    old = shutil.copytree(runs / "two", tmp_path / "run")
    shutil.copy(runs / "one" / "attacked.json", old)
    out = output_of(capsys, ["certify", old]).out
    assert f"left out: {old / 'attacked.json'}: about other weights than those there now; run `wellposed attack" in out
    for command in ("report", "compare"):
        assert "left out" in output_of(capsys, [command, old]).out
    shutil.copy(runs / "one" / "certified.json", old)
    assert (
        "certified.json: about other weights" in output_of(capsys, ["report", old], 2).err
    )  # nothing is known of these
    out = output_of(capsys, ["attack", old, "--limit", "3", "--steps", "2"]).out
    assert "no certificate" in out and f"left out: {old / 'certified.json'}" in out
    assert "left out" not in output_of(capsys, ["certify", old]).out
    content = (old / "attacked.json").read_text(encoding="utf-8")
    (old / "attacked.json").write_text(content.replace('"steps": 2', '"steps": 3'), encoding="utf-8")
    assert "attacked.json: " in output_of(capsys, ["certify", old], 2).err  # damaged, not of other weights


def test_runs_of_several_units_are_all_named(runs, capsys):
    out = output_of(capsys, ["compare", *(runs / name for name in ("one", "two", "three"))]).out
    listed = "the columns' own units in fine.csv (one, two), the columns' own units in coarse.csv (three)"
    assert f"The same radius means different things here: units are {listed}." in out


def test_seconds_of_training_are_those_that_it_printed(runs, tmp_path, capsys):
    place, words = tmp_path / "run", ["--data", runs / "fine.csv", "--target", "kind", *OPTIONS]
    out = output_of(capsys, ["train", "feedforward", *words, "--out", place]).out
    seconds = read_environment(place)["seconds"]
    assert f"trained in {seconds} s" in out
    output_of(capsys, ["certify", place])
    (found,) = json.loads(output_of(capsys, ["compare", place, "--json"]).out)
    assert found["seconds"] == seconds


def test_runs_by_regression_have_columns_of_their_own(runs, tmp_path, capsys):
    both = [runs / "sums", runs / "others"]
    header, first, second, *rest = output_of(capsys, ["compare", *both]).out.splitlines()
    assert header.split("  ")[0] == "run" and "error of the targets' mean" in header and "slope at most" in header
    estimates = [json.loads((place / "slope.json").read_text(encoding="utf-8")) for place in both]
    for line, name, estimate in zip((first, second), ("sums", "others"), estimates, strict=True):
        assert line.startswith(name) and line.split()[1] == f"{estimate['error']:.4g}"
    assert any("The same slope means different things here" in line for line in rest)
    found = json.loads(output_of(capsys, ["compare", *both, "--json"]).out)
    assert [entry["slope"] for entry in found] == [estimate["slope"] for estimate in estimates]
    output_of(capsys, ["compare", *both, "--out", tmp_path])
    page = (tmp_path / "compare.html").read_text(encoding="utf-8")
    assert f"{estimates[1]['error']:.4g}" in page and "Certified (filled)" not in page
    assert "compare each kind by itself" in output_of(capsys, ["compare", runs / "one", runs / "sums"], 2).err
    assert "eps=(0.1,): runs by regression" in output_of(capsys, ["compare", runs / "sums", "--eps", "0.1"], 2).err


def test_weights_by_another_name(runs, tmp_path, capsys):
    place = shutil.copytree(runs / "one", tmp_path / "run")
    (place / "weights.safetensors").rename(place / "first.safetensors")
    assert "first.safetensors beside it was not looked at" in output_of(capsys, ["verify", place]).out
    words = ["verify", place / "certificate.json", place / "first.safetensors"]
    assert "by the name weights.safetensors; rename it" in output_of(capsys, words, 2).err


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_parameters_that_are_not_finite_are_named(value, runs, tmp_path, capsys):
    place = shutil.copytree(runs / "one", tmp_path / "run")
    config, _, model = load_run(place)
    for name, parameter in model.named_parameters():
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter.view(-1)[0] = value
            with pytest.raises(InputError, match=f"^{name}: has NaN or infinite entries"):
                wp.certify(model)
            save_weights(model, config, place / "weights.safetensors")
            assert f"{name} has NaN or infinite entries; train again" in output_of(capsys, ["certify", place], 2).err
            parameter.copy_(kept)


ARRAYS = {"x_train": np.random.default_rng(0).normal(size=(40, 2)), "y_train": np.arange(40) % 2}


@pytest.mark.parametrize(
    ("data", "options", "error", "words"),
    [
        (ARRAYS, {"trainer": {"zzz": 1}}, OptionError, "trainer has no option 'zzz'; it has accelerator, .*callbacks"),
        (ARRAYS, {"trainer": {"max_epochs": 1}}, OptionError, "'max_epochs'; give epochs of wellposed.train"),
        (ARRAYS, {"target": "y"}, InputError, "target='y': is the column of a table"),
        (tuple(ARRAYS.values()), {"target": "y"}, InputError, "target='y': is the column of a table"),
        (from_arrays(ARRAYS), {"target": "y"}, InputError, "target='y': is the column of a table"),
        (
            from_arrays(ARRAYS),
            {"task": "regression"},
            InputError,
            "task='regression': the data set is for classification",
        ),
        (from_arrays(ARRAYS), {"task": "regresion"}, InputError, "Did you mean 'regression'"),
    ],
)
def test_nothing_that_is_given_to_train_is_ignored(data, options, error, words):
    with pytest.raises(error, match=words):
        wp.train(nn.Sequential(nn.Flatten(), nn.Linear(2, 2)), data, epochs=1, **options)

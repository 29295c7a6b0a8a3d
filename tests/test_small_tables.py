"""Small tables of a user's own: defaults that learn something, and words where nothing was learned."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest
import torch

import wellposed as wp
from wellposed.cli.main import run
from wellposed.data import Classification, Regression
from wellposed.data.tasks import beside_a_constant, nothing_learned
from wellposed.training.batches import Batches, suited
from wellposed.training.config import read_config

pytestmark = [pytest.mark.float32, pytest.mark.usefixtures("short_search")]
pytest.importorskip("lightning")


def clusters() -> tuple[np.ndarray, np.ndarray]:
    """150 points around three centres, in columns of very different units, as measurements are."""
    draws = np.random.default_rng(0)
    kinds = np.arange(150) % 3
    centres = np.array([[0.0, 0.0, 0.0], [4.0, 0.0, 1.0], [0.0, 4.0, 2.0]])
    return (centres[kinds] + draws.normal(0.0, 0.7, (150, 3))) * [1.0, 10.0, 0.1] + [5.0, 100.0, 0.0], kinds


def write(path, kinds, columns):
    with path.open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["kind", *"abc"])
        table.writerows([kind, *row] for kind, row in zip(kinds, columns, strict=True))
    return path


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    columns, kinds = clusters()
    return write(tmp_path_factory.mktemp("tables") / "clusters.csv", [f"kind-{kind}" for kind in kinds], columns)


def test_defaults_suit_the_number_of_samples():
    for samples in (1, 2, 7, 40, 108, 999, 1280, 6399, 6400, 60000):
        size, epochs = suited(samples, None, None)
        steps = math.ceil(samples / size)
        assert 1 <= size <= 128 and epochs >= 20 and (steps >= 10 or size == 1) and steps * epochs >= 1000
        assert (
            suited(samples, 64, 3) == (64, 3)
            and suited(samples, 64, None)[0] == 64
            and suited(samples, None, 3)[1] == 3
        )
    assert suited(6400, None, None) == suited(60000, None, None) == (128, 20)


def test_a_small_table_is_learned_with_defaults():
    columns, kinds = clusters()
    result = wp.train("mondeq", (columns, kinds))
    assert result.metrics["test/accuracy"] >= 0.9
    assert nothing_learned(result.metrics) == ""


def test_the_command_suits_what_was_not_given_and_says_so(table, tmp_path, capsys):
    words = ["train", "feedforward", "--data", str(table), "--target", "kind"]
    assert run([*words, "--epochs=2", "--out", str(tmp_path / "few")]) == 0
    assert "; 2 epochs in batches of 10, as the training samples are few; " in capsys.readouterr().out
    config = read_config(tmp_path / "few" / "config.toml")
    assert (config.batch_size, config.epochs) == (10, 2)
    assert run([*words, "--epochs=2", "--batch_size", "128", "--out", str(tmp_path / "given")]) == 0
    assert "are few" not in capsys.readouterr().out
    assert read_config(tmp_path / "given" / "config.toml").batch_size == 128
    assert run(["train", "--resume", "--out", str(tmp_path / "few")]) == 0  # with the settings that it took
    assert "nothing was changed" in capsys.readouterr().out


@pytest.mark.parametrize("samples", [7, 8, 9, 57])
def test_no_batch_of_training_has_a_single_sample_left_over(samples):
    batches = Batches(samples, 8, seed=0)
    sizes = [len(batch) for batch in batches]
    assert sum(sizes) == samples and len(sizes) == len(batches) and min(sizes) > 1
    assert [len(batch) for batch in Batches(9, 8, None)] == [8, 1]  # to evaluate, each is as good as any


def test_scores_of_constant_answers():
    labels = torch.tensor([0, 2, 2, 1])
    assert beside_a_constant(Classification(3), labels) == {"test/constant_accuracy": 0.5}
    targets = torch.tensor([[1.0, 10.0], [3.0, 30.0]])
    assert beside_a_constant(Regression(2), targets) == {"test/constant_mean_squared_error": 50.5}
    for score, says in ((0.49, True), (0.5, True), (0.51, False)):
        found = nothing_learned({"test/accuracy": score, "test/constant_accuracy": 0.5})
        assert bool(found) == says and ("accuracy 50.00 %" in found) == says
    for score, says in ((50.4, False), (50.5, True), (1e30, True)):
        found = nothing_learned({"test/mean_squared_error": score, "test/constant_mean_squared_error": 50.5})
        assert bool(found) == says and ("root mean squared error 7.106" in found) == says
    assert nothing_learned({"test/accuracy": 0.1}) == ""  # of an earlier version


@pytest.mark.parametrize(("task", "rate"), [("classification", "1e7"), ("regression", "1e3")])
def test_a_training_that_blew_up_but_stayed_finite_says_so(task, rate, tmp_path, capsys):
    columns, _ = clusters()
    targets = columns[:, 1] if task == "regression" else [place % 10 == 0 for place in range(150)]
    table, out = write(tmp_path / "table.csv", targets, columns), str(tmp_path / "run")
    words = ["--data", str(table), "--target", "kind", "--task", task, "--epochs", "1", "--learning-rate", rate]
    assert run(["train", "feedforward", *words, "--out", out]) == 0
    said = {
        "classification": "it errs no less often than whoever always names the commonest class (accuracy 90.00 %)",
        "regression": "it is no closer to the targets than whoever always says their mean (root mean squared error",
    }[task]
    shown = capsys.readouterr().out
    assert said in shown and "; 1 epoch in batches" in shown
    assert run(["train", "--resume", "--out", out, "--json"]) == 0
    assert nothing_learned(json.loads(capsys.readouterr().out)).startswith(said)

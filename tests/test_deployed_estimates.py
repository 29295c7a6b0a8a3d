"""Deployed networks that estimate numbers: what an answer may be off by follows the size of the targets."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import wellposed as wp
from wellposed.cli.main import run
from wellposed.deployment.runtime import DeployedNetwork

pytestmark = [pytest.mark.float32, pytest.mark.usefixtures("short_search")]
pytest.importorskip("lightning")
pytest.importorskip("onnxruntime")


def samples(size):
    x = np.random.default_rng(0).normal(size=(60, 3))
    return {
        "x_train": x[:40],
        "y_train": size * np.sin(x[:40].sum(1)),
        "x_test": x[40:],
        "y_test": size * np.sin(x[40:].sum(1)),
    }


@pytest.mark.parametrize("size", [1e-4, 1e4])
def test_answers_of_any_size_count_and_are_as_close_as_they_say(size, tmp_path):
    result = wp.train(
        wp.families.MonDEQFamily(m=1.0, width=8), samples(size), task="regression", epochs=20, batch_size=8
    )
    network, spread = (
        wp.export(result, tmp_path / "model.onnx", input_shape=(3,)),
        float(np.std(samples(size)["y_train"])),
    )
    file = DeployedNetwork(tmp_path / "model.onnx")
    assert file.tolerance == pytest.approx(1e-3 * spread, rel=1e-5)
    outputs, error = file(result.data.test_x)
    exact = network.exact(result.data.test_x.double())
    off = (outputs.double() - exact).norm(dim=1)
    assert bool((error <= file.tolerance).all()) and bool((off <= error).all())
    assert float(outputs.abs().max()) > 100.0 * file.tolerance  # so that the tolerance says something of the answers
    assert (
        wp.export(result, tmp_path / "other.onnx", tolerance=0.5, input_shape=(3,))
        and DeployedNetwork(tmp_path / "other.onnx").tolerance == 0.5
    )
    wp.save(result, tmp_path / "folder", input_shape=(3,))
    assert wp.load(tmp_path / "folder").network.tolerance == file.tolerance


def test_runs_are_exported_and_certified_with_one_tolerance(tmp_path, capsys):
    np.savez(tmp_path / "large.npz", **samples(1e4))
    words = ["--data", str(tmp_path / "large.npz"), "--task", "regression", "--epochs", "2", "--width", "4"]
    assert run(["train", "mondeq", *words, "--out", str(tmp_path / "run")]) == 0
    assert run(["certify", str(tmp_path / "run")]) == 0
    certified = (tmp_path / "run" / "model.onnx").read_bytes()
    capsys.readouterr()
    assert run(["export", str(tmp_path / "run"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tolerance"] == pytest.approx(1e-3 * float(np.std(samples(1e4)["y_train"])), rel=1e-5)
    assert (tmp_path / "run" / "model.onnx").read_bytes() == certified
    for model in ("model.onnx", "weights.safetensors"):
        assert run(["verify", str(tmp_path / "run" / "certificate.json"), str(tmp_path / "run" / model)]) == 0
    outputs, error = DeployedNetwork(tmp_path / "run" / "model.onnx")(torch.zeros(1, 3))
    assert bool(torch.isfinite(error).all()) and outputs.shape == (1, 1)

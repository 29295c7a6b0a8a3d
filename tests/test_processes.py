"""Two real processes that train one network together are one process with a batch twice as large."""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import wellposed as wp
from wellposed.training import batches
from wellposed.training.batches import Batches

pytest.importorskip("lightning")
pytestmark = pytest.mark.float32

SCRIPT = """
import sys
import lightning, torch
from torch import nn
import wellposed as wp
from wellposed.cli.main import run
from wellposed.data import from_arrays

def loss(model, inputs, targets):
    return nn.functional.cross_entropy(model(inputs), targets) + 0.01 * wp.losses.product_of_norms(model)

def model():
    torch.manual_seed(1)
    return nn.Sequential(wp.MonDEQ(4, 6), nn.Linear(6, 2))

def train(folder, devices, name):
    strategy = "ddp" if devices > 1 else "auto"
    x = torch.randn(93, 4, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] * x[:, 1] > 0).long()
    parts = {"train": slice(65), "validation": slice(65, 80), "test": slice(80, 93)}
    arrays = {f"{letter}_{part}": value[rows] for part, rows in parts.items() for letter, value in (("x", x), ("y", y))}
    trainer = {"devices": devices, "strategy": strategy, "accelerator": "cpu"}
    steps = {"batch_size": 16 // devices, "learning_rate": 0.02}
    own = wp.train(model(), arrays, epochs=3, loss=loss, trainer=trainer, **steps)

    data = from_arrays(arrays, name="points")
    module = wp.TrainingModule(model(), data.task, learning_rate=0.02)
    options = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "enable_checkpointing": False}
    loop = lightning.Trainer(max_epochs=2, **trainer, **options)
    loop.fit(module, datamodule=wp.TrainingData(data, batch_size=16 // devices))
    found = {"own": own.state_dict(), "module": module.model.state_dict(), "metrics": own.metrics}
    torch.save(found, f"{folder}/{name}.pt")

    words = ["train", "mondeq", "--data", "digits", "--epochs", "2", "--width", "8", "--lipschitz-penalty", "0.01"]
    words += ["--batch-size", str(128 // devices), "--accelerator", "cpu", "--json", "--out", f"{folder}/run-{devices}"]
    assert run([*words, "--devices", str(devices), "--strategy", strategy]) == 0
"""


def started(folder: Path, rank: int, port: int) -> subprocess.Popen[str]:
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
    code = f"{SCRIPT}\ntrain({str(folder)!r}, 2, 'rank-{rank}')"
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code], env={**os.environ, **place}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def printed(folder) -> list[str]:
    """What the first process, the second one, and this one by itself wrote to standard output."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = [started(folder, rank, port) for rank in range(2)]
    try:
        told = [process.communicate(timeout=250) for process in running]
    finally:
        for process in running:
            process.kill()
    for process, (_, errors) in zip(running, told, strict=True):
        assert process.returncode == 0, errors[-3000:]
    names: dict[str, Any] = {}
    exec(SCRIPT, names)
    with contextlib.redirect_stdout(io.StringIO()) as alone, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names["train"](folder, 1, "alone")
    return [output for output, _ in told] + [alone.getvalue()]


def test_the_first_process_alone_writes_and_prints_one_document(printed, folder):
    first, second, alone = printed
    assert second == "" and json.loads(first)["run"] == f"{folder}/run-2"
    together, apart = json.loads(first), json.loads(alone)
    for name in together.keys() - {"run", "seconds"}:
        assert together[name] == pytest.approx(apart[name], rel=1e-4), name
    owner = json.loads((folder / "run-2" / "environment.json").read_text(encoding="utf-8"))
    assert owner["metrics"]["epoch"] == together["epoch"]


def test_runs_end_with_the_same_weights_and_metrics(printed, folder):
    from safetensors.torch import load_file

    both = [load_file(folder / f"run-{devices}" / "weights.safetensors") for devices in (1, 2)]
    assert both[0].keys() == both[1].keys()
    for name, value in both[0].items():
        torch.testing.assert_close(both[1][name], value, rtol=1e-4, atol=2e-5)
    tables = [(folder / f"run-{devices}" / "metrics.csv").read_text().splitlines() for devices in (1, 2)]
    assert len(tables[0]) == len(tables[1]) == 6
    for rows in zip(*tables, strict=True):
        alone, together = ([float(part) for part in row.split(",") if part[:1].isdigit()] for row in rows)
        assert together == pytest.approx(alone, rel=1e-4)


def test_own_models_and_loops_of_lightning_do_the_same(printed, folder):
    first, second, alone = (torch.load(folder / f"{name}.pt") for name in ("rank-0", "rank-1", "alone"))
    for part in ("own", "module"):
        for name, value in alone[part].items():
            torch.testing.assert_close(first[part][name], value, rtol=1e-4, atol=2e-5)
            assert torch.equal(first[part][name], second[part][name])
    for name, value in alone["metrics"].items():  # the 65th sample counts twice in the mean loss of an epoch
        assert first["metrics"][name] == second["metrics"][name]
        assert first["metrics"][name] == pytest.approx(value, rel=2e-2 if name == "train/loss" else 1e-4), name


@pytest.mark.slow
def test_the_command_starts_its_processes_itself(tmp_path):
    words = [
        "train",
        "mondeq",
        "--data",
        "digits",
        "--epochs",
        "1",
        "--accelerator",
        "cpu",
        "--json",
        "--out",
        str(tmp_path / "run"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "wellposed", *words, "--devices", "2", "--strategy", "ddp"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["epoch"] == 1 and done.stderr.count("Initializing distributed") == 2


@pytest.mark.parametrize(("samples", "size"), [(0, 3), (1, 3), (2, 3), (6, 3), (7, 3), (8, 3), (20, 3)])
@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("seed", [None, 5])
def test_processes_divide_what_one_would_take(samples, size, processes, seed, monkeypatch):
    def of(rank: int, count: int, batch: int) -> list[list[int]]:
        monkeypatch.setattr(batches, "place", lambda: (rank, count))
        order = Batches(samples, batch, seed)
        order.set_epoch(3)
        found = list(order)
        assert len(found) == len(order)
        return found

    whole = of(0, 1, size * processes)
    shares = [of(rank, processes, size) for rank in range(processes)]
    assert len({len(share) for share in shares}) == 1
    for step, parts in enumerate(zip(*shares, strict=True)):
        together = sorted(place for part in parts for place in part)
        if seed is not None:  # fewer samples than processes are taken by all, which counts each as often
            copies = processes if len(whole[step]) < processes else 1
            assert together == sorted(copies * whole[step]) and all(parts)
    if seed is None and (samples >= processes or processes == 1):
        assert sorted(place for share in shares for part in share for place in part) == list(range(samples))
    order = [place for part in whole for place in part]
    assert sorted(order) == list(range(samples)) and (seed is None or samples < 6 or order != sorted(order))


def test_strategies_that_lose_what_they_find_are_refused():
    x = torch.randn(20, 2)
    with pytest.raises(wp.InputError, match="strategy='ddp_spawn'"):
        wp.train(
            "mondeq",
            (x, (x[:, 0] > 0).long()),
            epochs=1,
            trainer={"devices": 2, "accelerator": "cpu", "strategy": "ddp_spawn"},
        )

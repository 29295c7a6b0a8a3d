"""Every file that a command reads, damaged in every way: one line that names it, or an answer that is right for its bytes."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from torch import nn

import wellposed as wp
from harness.damage import DAMAGE, damage
from harness.mnist_layout import write_images
from wellposed.cli.main import run
from wellposed.data import load_file, load_images

pytestmark = [pytest.mark.float32, pytest.mark.filterwarnings("ignore::wellposed.errors.OwnFileWarning")]


# --- certificates and deployed files: they carry digests ---


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    folder = tmp_path_factory.mktemp("network") / "folder"
    torch.manual_seed(0)
    wp.save(nn.Sequential(wp.MonDEQ(3, 4), nn.Linear(4, 2)), folder, input_shape=(3,))
    return folder


@pytest.mark.parametrize("file", ["certificate.json", "certificate.safetensors", "model.onnx"])
@pytest.mark.parametrize("kind", DAMAGE)
def test_verify_names_a_damaged_file(file, kind, network, tmp_path, capsys):
    folder = tmp_path / "folder"
    shutil.copytree(network, folder)
    assert run(["verify", str(folder)]) == 0
    damage(folder / file, kind)
    capsys.readouterr()
    assert run(["verify", str(folder / "certificate.json"), str(folder / "model.onnx")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("wellposed: ")
    assert file in said or (file == "certificate.safetensors" and "certificate.json: no intact certificate (" in said)
    with pytest.raises(wp.WellposedError):
        wp.load(folder)


def test_verify_refuses_files_of_another_kind(network, tmp_path, capsys):
    other = tmp_path / "other.safetensors"
    shutil.copy(network / "certificate.safetensors", other)
    for words, named in (
        ([network / "certificate.json", other], "other.safetensors: not the ONNX file"),
        ([other, network / "model.onnx"], "other.safetensors: no intact certificate"),
        ([network / "model.onnx", network / "certificate.json"], "model.onnx: no intact certificate"),
    ):
        assert run(["verify", *map(str, words)]) == 2
        said = capsys.readouterr().err
        assert named in said and said.count("\n") == 1


# --- data: what has no redundancy gives an answer for its bytes ---


def _archive(folder):
    rows = np.random.default_rng(0).normal(size=(40, 3))
    np.savez(folder / "own.npz", x_train=rows, y_train=np.arange(40) % 2)
    return folder / "own.npz", lambda: load_file(folder / "own.npz"), True


def _table(folder):
    rows = np.random.default_rng(0).normal(size=(40, 2)).round(3).tolist()
    lines = ["a,b,y", *(f"{a},{b},{k % 2}" for k, (a, b) in enumerate(rows))]
    (folder / "own.csv").write_text("\n".join(lines), encoding="utf-8")
    return folder / "own.csv", lambda: load_file(folder / "own.csv", target="y"), False


def _pictures(folder):
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (folder / "pictures" / label).mkdir(parents=True)
        for place in range(6):
            found = image.fromarray(pixels.integers(0, 255, (5, 5), dtype=np.uint8))
            found.save(folder / "pictures" / label / f"{place}.png")
    return folder / "pictures" / "cat" / "0.png", lambda: load_file(folder / "pictures"), False


def _idx(folder):
    raw = write_images(folder, {"train": 20, "t10k": 20}, (28, 28))
    return raw / "train-images-idx3-ubyte.gz", lambda: load_images("mnist", folder), False


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("make", [_archive, _table, _pictures, _idx])
def test_a_damaged_data_file_is_named_or_read_as_it_is(make, kind, tmp_path, monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", _offline)
    path, load, has_redundancy = make(tmp_path)
    load()
    damage(path, kind)
    if has_redundancy and "cut" in kind:
        with pytest.raises(wp.WellposedError, match=path.name):
            load()
        return
    try:
        found = load()
    except wp.WellposedError as error:
        said = str(error)
    else:
        said = f"{path.name} {found!r}"
        assert torch.isfinite(found.train_x).all()
        assert kind not in ("empty", "a zip", "text", "a pickle")
    assert path.name in said or kind in ("missing", "a folder"), said


def _offline(*_, **__):
    raise OSError("offline")

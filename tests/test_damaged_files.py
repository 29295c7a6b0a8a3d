"""Certificates and deployed files carry digests: whatever is damaged of them is named in one line."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn

import wellposed as wp
from harness.damage import DAMAGE, damage
from wellposed.cli.main import run

pytestmark = pytest.mark.float32


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

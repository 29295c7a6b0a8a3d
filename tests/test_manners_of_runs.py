"""What commands say of finished, damaged and different runs, of users' own tables, and of deployed files."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

import wellposed as wp
from wellposed.cli.main import run
from wellposed.errors import shown

pytestmark = [pytest.mark.float32, pytest.mark.usefixtures("short_search")]

SMALL = ["--epochs", "1", "--width", "8", "--batch-size", "256", "--json"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    assert run(["train", "mondeq", "--data", "digits", *SMALL, "--out", str(folder)]) == 0
    assert run(["certify", str(folder), "--limit", "20", "--json"]) == 0
    return folder


@pytest.fixture
def copied(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table, and a certified run on it."""
    place = tmp_path_factory.mktemp("own")
    rows = np.random.default_rng(0).normal(size=(60, 2))
    lines = [f"{a},{b},{'yes' if a > 0 else 'no'}" for a, b in rows.tolist()]
    (place / "table.csv").write_text("\n".join(["a,b,good", *lines]), encoding="utf-8")
    words = ["--data", str(place / "table.csv"), "--target", "good", "--out", str(place / "run")]
    assert run(["train", "mondeq", *words, *SMALL]) == 0
    assert run(["certify", str(place / "run"), "--json"]) == 0
    return place / "table.csv", place / "run"


@pytest.mark.parametrize("command", ["report", "compare"])
def test_damaged_weights_are_said_to_be_damaged(command, copied, capsys):
    weights = copied / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    capsys.readouterr()
    assert run([command, str(copied)]) == 2
    said = capsys.readouterr().err
    assert "weights.safetensors: corrupt" in said and "train again" in said and "certif" not in said


def test_weights_of_another_family_are_told_apart_in_words(copied, finished, tmp_path, capsys):
    assert run(["train", "mondeq", "--data", "digits", *SMALL, "--width", "9", "--out", str(tmp_path / "other")]) == 0
    shutil.copy(tmp_path / "other" / "weights.safetensors", copied)
    capsys.readouterr()
    assert run(["certify", str(copied)]) == 2
    said = capsys.readouterr().err
    assert "width=9, and the configuration has width=8" in said and "Family(" not in said


@pytest.mark.parametrize(
    "words",
    [
        ["--devices", "0"],
        ["--accelerator", "foo"],
        ["--strategy", "foo"],
        ["--strategy", "ddp_spawn", "--devices", "2"],
    ],
    ids=" ".join,
)
def test_what_lightning_refuses_costs_no_finished_run(words, copied, capsys):
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert run(["train", "mondeq", "--data", "digits", *SMALL, *words, "--out", str(copied)]) == 2
    assert words[0].strip("-") in capsys.readouterr().err.splitlines()[-1]
    assert {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()} == before


def test_a_finished_run_that_is_replaced_is_said_to_be(copied, capsys):
    words = ["train", "mondeq", "--data", "digits", *SMALL, "--out", str(copied)]
    capsys.readouterr()
    assert run(words) == 0
    said = capsys.readouterr()
    assert (
        "a finished run is there, which this training replaces" in said.err and json.loads(said.out)["replaced"] is True
    )
    assert run([*words, "--resume"]) == 0
    said = capsys.readouterr()
    assert "replaces" not in said.err and json.loads(said.out)["replaced"] is False
    shutil.rmtree(copied)
    assert run(words) == 0
    said = capsys.readouterr()
    assert "replaces" not in said.err and json.loads(said.out)["replaced"] is False


def test_runs_on_different_data_are_not_compared_without_a_word(finished, table, tmp_path, capsys):
    capsys.readouterr()
    assert run(["compare", str(finished), str(table[1]), "--out", str(tmp_path / "page")]) == 0
    said = capsys.readouterr().out
    assert "on different data" in said and "digits digits, run table.csv" in said
    assert "on different data" in (tmp_path / "page" / "compare.html").read_text(encoding="utf-8")
    assert run(["compare", str(finished), str(finished)]) == 0
    assert "on different data" not in capsys.readouterr().out


def test_export_takes_data_that_moved(table, tmp_path, capsys):
    path, folder = table
    moved = tmp_path / "moved.csv"
    path.rename(moved)
    try:
        capsys.readouterr()
        assert run(["export", str(folder)]) == 2
        assert "say where by --data" in capsys.readouterr().err
        assert run(["export", str(folder), "--data", str(moved)]) == 0
    finally:
        moved.rename(path)


def test_deployed_files_say_what_runs_say(table, copied, capsys):
    capsys.readouterr()
    assert run(["certify", str(copied), "--deployed", "--limit", "30", "--tolerance", "1e-12", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["unsolved"] == found["refused"] == 30 and "it answers for no input" in " ".join(found["remarks"])
    written = json.loads((copied / "certified-deployed.json").read_text())
    assert written["unsolved"] == 30 and written["classes_named"] == 0 and written["majority_error"] > 0.5
    assert run(["certify", str(table[1]), "--deployed"]) == 0
    said = capsys.readouterr().out
    assert "samples were split off with seed 0" in said
    written = json.loads((table[1] / "certified-deployed.json").read_text())
    assert written["unsolved"] == 0 and written["classes_named"] in (1, 2) and written["constants"]


@pytest.mark.parametrize(("mark", "name"), [(";", "semicolons"), ("\t", "tabs"), ("|", "bars")])
def test_tables_with_other_separators_are_told(mark, name, tmp_path, capsys):
    path = tmp_path / "table.csv"
    path.write_text(mark.join("abc") + "\n" + mark.join("123") + "\n", encoding="utf-8")
    assert run(["train", "mondeq", "--data", str(path), "--target", "c", "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert f"separated by {name}; needs commas" in said and said.count("\n") == 1


def test_messages_show_values_briefly():
    assert shown(torch.zeros(3, 4)) == "Tensor of shape (3, 4)" and shown(np.zeros(5)) == "ndarray of shape (5,)"
    assert shown(wp.MonDEQ) == "MonDEQ" and shown(object()) == "object" and shown(len) == "len"
    assert shown(1.5) == "1.5" and shown("x") == "'x'" and len(shown("y" * 1000)) < 130


def test_weights_have_the_certificate_of_the_file_that_they_give_to_the_byte(copied, tmp_path, capsys):
    certificate, weights = copied / "certificate.json", copied / "weights.safetensors"
    capsys.readouterr()
    assert run(["verify", str(certificate), str(weights)]) == 0
    assert "the certificate holds" in capsys.readouterr().out
    other = tmp_path / "other"
    words = ["--data", "digits", "--seed", "1", *SMALL, "--out", str(other)]
    assert run(["train", "mondeq", *words]) == 0
    capsys.readouterr()
    assert run(["verify", str(certificate), str(other / "weights.safetensors")]) == 2
    assert "other weights" in capsys.readouterr().err
    shutil.copy(weights, tmp_path / "weights.safetensors")
    assert run(["verify", str(certificate), str(tmp_path / "weights.safetensors")]) == 2
    assert "not a run folder" in capsys.readouterr().err


def test_a_folder_without_a_run_to_go_on_with_is_named(tmp_path, capsys):
    assert run(["train", "--resume", "--out", str(tmp_path / "none")]) == 2
    assert f"out='{tmp_path}/none': no run is there to go on with" in capsys.readouterr().err

"""Files of runs carry digests: whatever is damaged of them, a command that reads it ends in one line that names the file."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

import wellposed as wp
from harness.damage import DAMAGE, damage, drawn, flips, write_anew
from wellposed.cli.main import run
from wellposed.errors import CheckpointError
from wellposed.experiments.image_verdicts import Outcome
from wellposed.experiments.verdict_journal import VerdictJournal
from wellposed.reproduction.cell import Cell, Workspace, read_record, read_result, record_of, record_path
from wellposed.reproduction.networks import epochs_of
from wellposed.training.checkpoint import read_weights
from wellposed.training.config import TrainConfig, read_config, write_config
from wellposed.training.files import read_json, write_json
from wellposed.training.trainer import check_checkpoint

pytestmark = [pytest.mark.float32, pytest.mark.usefixtures("short_search")]
SMALL = ["--epochs", "1", "--width", "4", "--batch-size", "512"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A run that was certified in two ways and attacked, with all that these leave."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    assert run(["train", "mondeq", "--data", "digits", "--out", str(folder), *SMALL]) == 0
    assert run(["certify", str(folder), "--limit", "4"]) == 0
    assert run(["certify", str(folder), "--limit", "2", "--method", "ladder", "--eps", "0.01"]) == 0
    assert run(["attack", str(folder), "--limit", "30", "--steps", "2", "--eps", "0.5"]) == 0
    return folder


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A run by regression on a table, certified."""
    root = tmp_path_factory.mktemp("own")
    rows = np.random.default_rng(0).normal(size=(60, 2)).round(3).tolist()
    lines = ["a,b,y", *(f"{a},{b},{a - b}" for a, b in rows)]
    (root / "own.csv").write_text("\n".join(lines), encoding="utf-8")
    words = ["--data", str(root / "own.csv"), "--target", "y", "--task", "regression", "--m", "1"]
    assert run(["train", "mondeq", *words, "--out", str(root / "run"), *SMALL]) == 0
    assert run(["certify", str(root / "run"), "--limit", "4"]) == 0
    return root / "run"


# Each file with a command that reads it; what a run may lack is read only where it is there.
READERS = {
    "config.toml": ["certify", "RUN"], "weights.safetensors": ["export", "RUN"], "environment.json": ["report", "RUN"],
    "metrics.csv": ["report", "RUN"], "certified.json": ["compare", "RUN"], "attacked.json": ["compare", "RUN"],
    "adversarial.json": ["report", "RUN"], "verified-2.json": ["report", "RUN"],
    "checkpoints/last.ckpt": ["train", "--resume", "--out", "RUN"], "model.onnx": ["verify", "RUN"],
    "certificate.json": ["verify", "RUN"], "certificate.safetensors": ["verify", "RUN"],
}  # fmt: skip
OWN_READERS = {"data.json": ["certify", "RUN"], "slope.json": ["report", "RUN"]}
OPTIONAL = {
    "environment.json",
    "certified.json",
    "attacked.json",
    "adversarial.json",
    "verified-2.json",
    "checkpoints/last.ckpt",
}
# Beside results: what is written for people, what only writers read, and the lock.
NOT_READ = {"report.html", ".writer.lock"}


def check_damage(folder, file, kind, words, tmp_path, capsys):
    there = tmp_path / "run"
    shutil.copytree(folder, there)
    damage(there / file, kind)
    capsys.readouterr()
    assert run([str(there) if word == "RUN" else word for word in words]) == 2, kind
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("wellposed: "), said
    name = "certificate" if file.startswith("certificate.") else file
    assert name in said or str(there) in said, said
    shutil.rmtree(there)


def kinds_for(file):
    return [kind for kind in DAMAGE if not (kind == "missing" and file in OPTIONAL)]


def test_every_file_of_a_run_is_looked_at(digits, own):
    for folder, readers in ((digits, READERS), (own, READERS | OWN_READERS)):
        files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert {
            file for file in files - NOT_READ if file not in readers and not file.endswith((".png", ".svg"))
        } == set()
        assert readers is not READERS or set(readers) <= files


@pytest.mark.parametrize("file", READERS)
def test_a_damaged_file_of_a_run_is_named(file, digits, tmp_path, capsys):
    for kind in drawn(file, 3):
        if kind in kinds_for(file):
            check_damage(digits, file, kind, READERS[file], tmp_path, capsys)


@pytest.mark.parametrize("file", OWN_READERS)
def test_a_damaged_file_of_a_run_on_own_data_is_named(file, own, tmp_path, capsys):
    for kind in drawn(file, 3):
        check_damage(own, file, kind, OWN_READERS[file], tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("file", [*READERS, *OWN_READERS])
def test_every_damage_of_every_file_of_a_run(file, kind, digits, own, tmp_path, capsys):
    if kind in kinds_for(file):
        folder = own if file in OWN_READERS else digits
        check_damage(folder, file, kind, (READERS | OWN_READERS)[file], tmp_path, capsys)


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        ("certified.json", {"radii": {"sqrt2": [0.1] * 4}}, "radii lack those of 'paper'"),
        ("certified.json", {"lower_bound": 1e6}, "contradiction"),
        ("certified.json", {"radii": None}, "radii=None"),
        ("attacked.json", {"distances": "x"}, "corrupt"),
        ("environment.json", {"files": None}, "train again"),
        ("verified-2.json", {"norm": "x"}, "norm='x'"),
    ],
)
def test_results_of_runs_without_a_digest_tell_what_is_wrong(file, change, says, digits, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(digits, folder)
    content = {**json.loads((folder / file).read_text()), **change}
    content.pop("sha256")
    write_anew(folder / file, json.dumps(content).encode())
    capsys.readouterr()
    assert run(["report", str(folder), "--eps", "0.1"]) != 0
    said = capsys.readouterr().err
    assert file in said and says in said and " again" in said


def test_own_data_that_changed_since_the_training_are_refused(own, capsys):
    table = own.parent / "own.csv"
    content = table.read_bytes()
    try:
        for kind in DAMAGE:
            damage(table, kind)
            capsys.readouterr()
            assert run(["report", str(own)]) == 2, kind
            said = capsys.readouterr().err
            assert "own.csv" in said and said.count("\n") == 1
            table.rmdir() if table.is_dir() else None
            table.write_bytes(content)
    finally:
        table.write_bytes(content)


# --- any bit at all, of files that are small ---

BITS = pytest.mark.parametrize("count", [120, pytest.param(1500, marks=pytest.mark.slow)])


def refused(path, read, contents):
    """How many of the contents are refused by an error that names the file."""
    count = 0
    for content in contents:
        write_anew(path, content)
        with pytest.raises(CheckpointError, match=path.name):
            read(path)
        count += 1
    return count


@BITS
def test_any_flipped_bit_of_results_is_seen(count, tmp_path):
    path = tmp_path / "result.json"
    write_json(path, {"a": [1.5, float("inf")], "weights_sha256": "0" * 64, "words": "é"}, indent=1)
    content = path.read_bytes()
    assert refused(path, lambda place: read_json(place, "measure"), flips(content, count)) == count
    assert refused(
        path, lambda place: read_json(place, "measure"), (content[:end] for end in range(0, len(content), 11))
    )
    path.write_bytes(content)
    assert read_json(path, "measure")["a"] == [1.5, float("inf")]
    write_json(path, {})
    assert read_json(path, "measure") == {}


@BITS
def test_any_flipped_bit_of_settings_is_seen(count, tmp_path):
    path = tmp_path / "config.toml"
    write_config(TrainConfig(), path)
    content = path.read_bytes()
    assert refused(path, read_config, flips(content, count)) == count
    assert refused(path, read_config, (content[:end] for end in range(0, len(content), 29)))


@BITS
def test_flipped_bits_of_weights_and_checkpoints_are_seen(count, digits, tmp_path):
    for file, read in (("weights.safetensors", read_weights), ("checkpoints/last.ckpt", check_checkpoint)):
        path = tmp_path / file.rpartition("/")[2]
        content = (digits / file).read_bytes()
        assert refused(path, read, flips(content, count)) == count
        assert refused(path, read, (content[:end] for end in (*range(0, 800, 29), len(content) - 1)))


@BITS
def test_any_flipped_bit_of_a_journal_leaves_right_verdicts(count, tmp_path):
    path, about = tmp_path / "journal", {"norm": "2", "radii": [0.1], "weights_sha256": "1"}
    outcomes = [Outcome([["certified"]], [["global"]], 0.5), Outcome([["falsified"]], [["attack"]], 0.25)]
    journal = VerdictJournal(path, about)
    for place, outcome in enumerate(outcomes):
        journal.keep(place, outcome)
    content, found = path.read_bytes(), set()
    for changed in [
        *flips(content, count),
        *(content[:end] for end in range(0, len(content) + 1, 13)),
        content[:-1],
        b"\x80\x04K\x01.",
        b"[1]\n{}\n",
    ]:
        write_anew(path, changed)
        journal = VerdictJournal(path, about)
        kept = [journal.outcome(place, 1, 1) for place in range(2)]
        assert all(one in (None, outcome) for one, outcome in zip(kept, outcomes, strict=True))
        found.add(sum(one is not None for one in kept))
    assert found == {0, 1, 2}  # a cut behind the last bracket loses nothing


# --- what recipes keep ---


def measured(workspace, number):
    return {"number": number}


@pytest.mark.parametrize("kind", [kind for kind in DAMAGE if kind != "missing"])
def test_a_damaged_record_of_a_recipe_is_named(kind, tmp_path):
    workspace, cell = Workspace(tmp_path, None), Cell(measured, {"number": 3})
    record_of(workspace, cell)
    damage(record_path(workspace, cell), kind)
    with pytest.raises(CheckpointError, match=cell.name):
        record_of(workspace, cell)


RECORD = {
    "task": "a", "settings": {"n": 1}, "measured": {"b": {"c": 1.0}},
    "circumstances": {"cpu_hours": 0.1, "date": "2026-01-01", "commit": "0", "threads": 1, "processor": "p"},
}  # fmt: skip
RECORD_DAMAGE = {
    **{f"no {name}": ({key: value for key, value in RECORD.items() if key != name}, name) for name in RECORD},
    **{
        f"no {name}": (
            {**RECORD, "circumstances": {k: v for k, v in RECORD["circumstances"].items() if k != name}},
            name,
        )
        for name in RECORD["circumstances"]
    },
    **{f"{name} a list": ({**RECORD, name: [1]}, name) for name in RECORD},
    "a word for hours": ({**RECORD, "circumstances": {**RECORD["circumstances"], "cpu_hours": "x"}}, "cpu_hours"),
    "more": ({**RECORD, "other": 1}, "other"), "a list": ([RECORD], "no dictionary"), "a number": (3, "no dictionary"),
}  # fmt: skip


@pytest.mark.parametrize("kind", RECORD_DAMAGE)
def test_records_without_a_digest_tell_what_they_lack(kind, tmp_path):
    content, lacks = RECORD_DAMAGE[kind]
    for path, read in ((tmp_path / "result.json", read_result), (tmp_path / "record.json", read_record)):
        write_anew(path, json.dumps({"records": [content]} if read is read_result else content).encode())
        with pytest.raises(CheckpointError) as caught:
            read(path)
        said = str(caught.value)
        assert path.name in said and lacks in said and " again" in said and "\n" not in said


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"3", b'{"records": {}}', b'{"records": null}', b'{"records": [{']
)
def test_results_that_are_none_are_named(content, tmp_path):
    write_anew(tmp_path / "result.json", content)
    with pytest.raises(CheckpointError, match=r"result\.json.*run its recipe again"):
        read_result(tmp_path / "result.json")


def test_what_measurements_lack_is_told_when_it_is_asked_for(tmp_path):
    write_anew(tmp_path / "result.json", json.dumps({"records": [RECORD]}).encode())
    (found,) = read_result(tmp_path / "result.json")
    assert found.measured == RECORD["measured"] and found.measured["b"]["c"] == 1.0
    for of, name, place in (
        (found.measured, "x", "measured"), (found.measured["b"], "y", "measured, b"), (found.settings, "z", "settings"),
    ):  # fmt: skip
        with pytest.raises(CheckpointError, match=rf"result\.json: damaged, record 1, {place} lacks '{name}'; run its"):
            of[name]
    plain = dataclasses.asdict(found)
    with pytest.raises(KeyError):
        plain["measured"]["x"]


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_results_of_recipes_are_named(kind, tmp_path):
    write_json(tmp_path / "epochs.json", {"epochs": [{"accuracy": 1.0}]}, indent=1)
    write_json(tmp_path / "recipe.json", {"recipe": "x", "records": [RECORD]}, indent=1)
    assert epochs_of(tmp_path) == [{"accuracy": 1.0}] and read_result(tmp_path / "recipe.json")[0].task == "a"
    for file, read in (("epochs.json", epochs_of), ("recipe.json", lambda folder: read_result(folder / "recipe.json"))):
        damage(tmp_path / file, kind)
        with pytest.raises(CheckpointError, match=file):
            read(tmp_path)


def test_a_damaged_note_of_the_writer_is_written_anew(digits, capsys):
    note = digits / ".writer.json"
    note.write_text(json.dumps({"process": 1, "host": "another"})[:-5], encoding="utf-8")
    assert run(["export", str(digits)]) == 0
    assert not note.exists()


def test_weights_of_another_kind_are_refused(tmp_path):
    torch.save({"a": torch.zeros(2)}, tmp_path / "weights.safetensors")
    with pytest.raises(wp.WellposedError, match="pickle"):
        read_weights(tmp_path / "weights.safetensors")

"""What the command and the package leave alone, refuse and say: helps without torch, folders with one writer, damaged files."""

from __future__ import annotations

import ast
import errno
import io
import json
import logging
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import wellposed as wp
from harness.damage import write_anew
from harness.results import unsealed
from wellposed import activations, names, testing
from wellposed.attacks import adversarial_distances
from wellposed.cli.main import main, run
from wellposed.cli.progress import _Lines
from wellposed.data import graphs, images, vectors
from wellposed.errors import CheckpointError
from wellposed.reproduction.collection import RECIPES
from wellposed.reproduction.recipe import Later
from wellposed.training.files import read_json, strict, write_json
from wellposed.training.folder import RunFolder
from wellposed.training.shipped import shipped_presets
from wellposed.training.writer import is_main_process, one_writer

pytestmark = [pytest.mark.float32, pytest.mark.usefixtures("short_search")]

SMALL = ["--data", "digits", "--epochs", "2", "--width", "8", "--batch-size", "256"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with everything that commands write."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    assert run(["train", "mondeq", *SMALL, "--out", str(folder), "--json"]) == 0
    assert run(["certify", str(folder), "--limit", "20", "--json"]) == 0
    assert run(["attack", str(folder), "--limit", "20", "--steps", "3", "--json"]) == 0
    assert run(["certify", str(folder), "--limit", "2", "--method", "ladder", "--eps", "0.1", "--json"]) == 0
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- the package and its command start quickly ---


def test_help_of_every_command_loads_no_torch():
    code = (
        "import sys\nfrom wellposed.cli.commands import COMMANDS\nfrom wellposed.cli.main import run\n"
        "from wellposed.cli.reproduce import EXPERIMENTS\nfrom wellposed.models.families import FAMILIES\n"
        "import wellposed\nassert wellposed.__version__\n"
        "for words in (['--help'], ['--version'], ['presets'], *([name, '--help'] for name in COMMANDS),\n"
        "              *(['train', name, '--help'] for name in FAMILIES), ['train', '--preset', 'digits', '--help'],\n"
        "              ['reproduce', '--list'], *(['reproduce', name, '--help'] for name in EXPERIMENTS)):\n"
        "    try:\n        code = run(words)\n    except SystemExit as stop:\n        code = stop.code\n"
        "    assert code == 0, words\n    assert 'torch' not in sys.modules, words\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_where_the_table_says():
    tree = ast.parse(Path(wp.__file__).read_text(encoding="utf-8"))
    (typed,) = (node for node in tree.body if isinstance(node, ast.If))
    declared = {
        alias.name: node.module for node in typed.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert {name: f"wellposed.{home}" for name, home in wp._HOME_OF.items()} == declared
    assert {"__version__", *declared} == set(wp.__all__) <= set(dir(wp))
    for name in wp.__all__:
        assert getattr(wp, name) is not None
    assert callable(wp.fixed_point) and wp.solvers.Picard is wp.Picard
    with pytest.raises(AttributeError, match="has no attribute 'certfy'"):
        wp.certfy  # noqa: B018


def test_names_that_are_known_without_torch_are_those_of_the_library():
    assert activations.names() == names.ACTIVATIONS
    assert activations.concave_names() == names.CONCAVE_ACTIVATIONS
    found = {"images": images.IMAGE_NAMES, "vectors": vectors.VECTOR_NAMES, "graphs": graphs.GRAPH_NAMES}
    assert found == names.DATA_SETS


def test_functions_of_recipes_are_where_they_are_said_to_be():
    found = [getattr(part, "func", part) for recipe in RECIPES.values() for part in (recipe.cells, recipe.view)]
    later = [part for part in found if isinstance(part, Later)]
    assert len(later) > 40 and all(callable(part.found()) for part in later)


def test_minutes_of_presets_are_those_of_the_record(capsys):
    record = json.loads((Path(__file__).parents[1] / "docs" / "records" / "presets.json").read_text(encoding="utf-8"))
    measured = {entry["preset"]: round(entry["seconds"] / 60, 1) for entry in record}
    assert run(["presets", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["name"]: row["minutes"] for row in rows if row["minutes"] is not None} == measured
    assert {row["name"] for row in rows} == set(shipped_presets()) and all(row["shows"] for row in rows)


# --- training: finished, resumed, one writer ---


def test_a_finished_run_is_left_as_it_is(finished, capsys):
    before = contents(finished)
    for words in (["--resume", "--out", str(finished)], ["--resume", f"--out={finished}"]):
        assert run(["train", "mondeq", *words]) == 0
        assert "this run is finished, and nothing was changed; test accuracy" in capsys.readouterr().out
    assert run(["train", "--resume", "--out", str(finished), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["finished_before"] is True
    assert run(["train", "lben", "--resume", "--out", str(finished)]) == 2
    assert "belongs to the family 'mondeq', not 'lben'" in capsys.readouterr().err
    assert contents(finished) == before


STOPPED = """
import os, sys
from wellposed.training.module import TaskModule as C
original = C.on_train_epoch_start
def stop(self):
    if self.current_epoch == 2: os._exit(9)
    original(self)
C.on_train_epoch_start = stop
from wellposed.cli.main import main, run
run(sys.argv[1:])
"""


def test_a_resumed_run_with_augmentation_ends_bit_by_bit_where_an_uninterrupted_one_does(tmp_path):
    words = ["train", "mondeq", *SMALL, "--epochs", "4", "--augment", "--threads", "1", "--json"]
    halves, before = tmp_path / "halves", torch.get_num_threads()
    stopped = subprocess.run([sys.executable, "-c", STOPPED, *words, "--out", str(halves)], check=False)
    assert stopped.returncode == 9
    try:
        assert run([*words, "--out", str(tmp_path / "whole")]) == 0
        assert run([*words, "--out", str(halves), "--resume"]) == 0
    finally:
        torch.set_num_threads(before)
    first, second = (load_file(folder / "weights.safetensors") for folder in (halves, tmp_path / "whole"))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_second_writer_is_told_who_holds_the_folder(tmp_path, capsys):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom wellposed.training.writer import one_writer\n"
        "with one_writer(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    folder = tmp_path / "run"
    folder.mkdir()
    holder = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    try:
        assert run(["train", "mondeq", *SMALL, "--out", str(folder)]) == 2
        told = capsys.readouterr().err
        assert f"process {holder.pid} on {os.uname().nodename} is writing to it" in told and told.count("\n") == 1
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    owner = folder / ".writer.json"
    assert str(holder.pid) in owner.read_text()  # what the killed process left is taken over
    with one_writer(folder):
        assert str(os.getpid()) in owner.read_text()
    assert not owner.exists()
    owner.write_text(json.dumps({"process": 7, "host": "elsewhere"}))
    with (
        pytest.raises(wp.WellposedError, match=r"process 7 on elsewhere .* delete .*\.writer\.json"),
        one_writer(folder),
    ):
        pass


def test_other_processes_of_a_training_neither_hold_nor_write(tmp_path, monkeypatch):
    assert is_main_process()
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert not is_main_process()
    with one_writer(tmp_path / "run"):
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("words", [["--preset=digits"], ["--preset", "digits"]])
def test_a_preset_needs_no_family(words, tmp_path):
    options = ["--epochs", "1", "--json", f"--out={tmp_path / 'run'}"]
    assert run(["train", *words, *options]) == 0
    assert 'name = "mondeq"' in RunFolder(tmp_path / "run").config.read_text()


def test_an_interrupt_is_said_once(capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("wellposed.training.run.train", interrupted)
    assert run(["train", "mondeq", "--out", "folder"]) == 130
    told = capsys.readouterr().err
    assert told == "wellposed: interrupted; continue with the same command and --resume --out folder\n"


# --- what is printed ---


def test_json_is_strict_and_numbers_that_are_not_finite_come_back(tmp_path):
    content = {"distances": [0.5, float("inf")], "inner": {"x": float("-inf"), "a/b": 1.0}, "empty": None}
    plain = strict(content)
    assert plain["distances"] == [0.5, None] and plain["not_finite"] == {"distances/1": "inf", "inner/x": "-inf"}
    write_json(tmp_path / "a.json", content)
    json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail)
    assert read_json(tmp_path / "a.json", "try") == content
    metrics = {
        "metrics": {"validation/loss": float("inf"), "validation": 1.0, "3": float("inf")}
    }  # names with strokes and digits
    write_json(tmp_path / "b.json", metrics)
    assert read_json(tmp_path / "b.json", "try") == metrics


def test_files_with_numbers_that_are_not_finite_can_be_changed_by_hand(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"distances": [0.5, float("inf"), float("inf")]})
    changed = unsealed(path)
    changed["distances"][1] = 2.0
    path.write_text(json.dumps(changed))
    assert read_json(path, "try") == {"distances": [0.5, 2.0, float("inf")]}
    for damaged in ({"not_finite": {"distances/1": "inf"}}, {"distances": 3, "not_finite": {"distances/1": "inf"}}):
        path.write_text(json.dumps(damaged))
        with pytest.raises(CheckpointError, match="not_finite|corrupt"):
            read_json(path, "try")
    path.write_text(json.dumps({"x": [None], "not_finite": {"x/0": [1]}}))
    with pytest.raises(CheckpointError, match="not_finite"):
        read_json(path, "try")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_any_terminal_can_show_a_table(finished, encoding, monkeypatch):
    stream = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(stream, encoding=encoding))
    for words in (["compare", finished, "--eps", "0.1"], ["train", "--help"], ["presets"]):
        assert run(list(map(str, words))) == 0
    assert b"\\u2113" in stream.getvalue()  # of the norm in the title of a preset


@pytest.mark.parametrize("value", ["nan", "inf", "-0.1", "0"])
@pytest.mark.parametrize("command", ["certify", "attack", "compare", "report"])
def test_radii_that_no_ball_has_are_refused(command, value, finished, capsys):
    assert run([command, str(finished), "--eps", "0.1", value]) == 2
    assert "eps" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["train", "mondeq", "--learning-rate", "nan"], "learning_rate"),
        (["train", "mondeq", "--learning-rate", "inf"], "learning_rate"),
        (["train", "mondeq", "--m", "inf"], "m="), (["train", "mondeq", "--temperature", "nan"], "temperature"),
        (["train", "mondeq", "--preset"], "--preset"), (["train", "--epochs", "3"], "family"),
        (["certify", "RUN", "--seconds", "nan"], "seconds"),
        (["certify", "RUN", "--method", "ladder", "--seconds", "-1"], "seconds"),
        (["certify", "RUN", "--deployed", "--tolerance", "nan"], "tolerance"),
        (["export", "RUN", "--tolerance", "0"], "tolerance"),
        (["attack", "RUN", "--steps", "0"], "steps"), (["attack", "RUN", "--restarts", "-1"], "restarts"),
        (["import", "nothing.pt", "--m", "nan"], "m="), (["reproduce", "risk", "--delta", "nan"], "delta"),
        (["reproduce", "risk", "--scale", "inf"], "scale"), (["reproduce", "graphs", "--minutes", "nan"], "minutes"),
        (["verify"], "two files"), (["verify", "--exakt", "a", "b"], "--exakt"), (["verify", "no.json", "no.onnx"], "no.json"),
        (["presets", "--jsn"], "--jsn"),
    ],
)  # fmt: skip
def test_unusable_options_are_named(words, name, finished, capsys):
    assert run([str(finished) if word == "RUN" else word for word in words]) == 2
    assert name in capsys.readouterr().err


def test_lines_of_progress_say_what_is_left():
    lines = _Lines("images", None)
    assert lines.line(25, 100, "loss 1", 10.0) == "images: 25 of 100, 30 s left, loss 1"
    assert lines.line(0, None, "", 10.0) == "images: 0"


# --- files that are damaged or cannot be written ---

READERS = {
    "config.toml": ["compare", "RUN"], "weights.safetensors": ["certify", "RUN", "--limit", "1"],
    "metrics.csv": ["report", "RUN"],
    "environment.json": ["report", "RUN"], "certified.json": ["compare", "RUN"], "attacked.json": ["compare", "RUN"],
    "verified-2.json": ["attack", "RUN", "--limit", "1", "--steps", "1"], "adversarial.json": ["report", "RUN"],
    "checkpoints/last.ckpt": ["train", "mondeq", "--resume", "--out", "RUN"],
}  # fmt: skip


def flipped(content: bytes, place: float) -> bytes:
    at = int(place * (len(content) - 1))
    return content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :]


DAMAGE = {
    "truncated": lambda content: content[: len(content) // 2], "emptied": lambda content: b"",
    "another kind": lambda content: b"PK\x03\x04 and so on", "a list": lambda content: b"[1, 2]",
    **{f"bit flipped at {place}": (lambda content, place=place: flipped(content, place)) for place in (0.0, 0.02, 0.4, 0.8, 1.0)},
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("file", READERS)
def test_a_damaged_file_is_named(file, damage, finished, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    place = folder / file
    place.write_bytes(DAMAGE[damage](place.read_bytes()))
    capsys.readouterr()
    assert run([str(folder) if word == "RUN" else word for word in READERS[file]]) == 2
    told = capsys.readouterr().err
    assert place.name in told and told.startswith("wellposed: ")


def test_files_that_are_folders_are_named(finished, tmp_path, capsys):
    for file, words in READERS.items():
        folder = tmp_path / file.replace("/", "-")
        shutil.copytree(finished, folder)
        (folder / file).unlink()
        (folder / file).mkdir()
        assert run([str(folder) if word == "RUN" else word for word in words]) == 2, file
        assert Path(file).name in capsys.readouterr().err


def test_a_changed_bit_anywhere_in_a_small_file_is_found(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    from wellposed.experiments.results import read_attacked
    from wellposed.training.config import read_config
    from wellposed.training.folder import read_environment

    readers = {
        "config.toml": lambda: read_config(folder / "config.toml"), "attacked.json": lambda: read_attacked(folder),
        "environment.json": lambda: read_environment(folder),
    }  # fmt: skip
    for file, read in readers.items():
        content = (folder / file).read_bytes()
        for at in range(0, len(content), max(1, len(content) // 150)):
            for bit in (1, 2, 32):
                write_anew(folder / file, content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :])
                with pytest.raises(wp.WellposedError, match=file):
                    read()
        (folder / file).write_bytes(content)
        read()


@pytest.mark.parametrize(
    "words",
    [
        ["certify", "RUN", "--limit", "20"], ["attack", "RUN", "--limit", "20", "--steps", "1"], ["export", "RUN"],
        ["report", "RUN"],
        ["train", "mondeq", *SMALL, "--out", "RUN"], ["certify", "RUN", "--limit", "1", "--method", "ladder", "--eps", "0.1"],
    ],
)  # fmt: skip
def test_a_full_disk_is_one_line(words, finished, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # which Python would cut short, too
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    capsys.readouterr()
    before, limit = contents(folder), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))
    try:
        code = run([str(folder) if word == "RUN" else word for word in words])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    told = [line for line in capsys.readouterr().err.splitlines() if " of " not in line]  # progress apart
    assert code == 2 and len(told) == 1 and str(folder) in told[0] and os.strerror(errno.EFBIG) in told[0]
    after = contents(folder)
    assert not [name for name in after if re.search(r"\.part\d", name)]
    assert (
        words[0] == "train" or {name for name in before if after[name] != before[name] and "plots" not in name} == set()
    )


def test_output_that_nobody_can_take_is_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "wellposed", "presets"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and os.strerror(errno.ENOSPC) in done.stderr


# --- what is left as it was ---


def test_an_attack_leaves_a_model_and_the_program_as_they_were():
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), wp.MonDEQ(16, 6), nn.Linear(6, 3))
    x, y = testing.rand(6, 1, 4, 4), torch.arange(6) % 3
    model.train(), model[1].eval()
    model[3].weight.requires_grad_(False)
    model[3].bias.grad = torch.ones(3)
    modes = [part.training for part in model.modules()]
    needs = [part.requires_grad for part in model.parameters()]
    root = logging.getLogger()
    level, generators = root.level, (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())  # noqa: NPY002
    root.setLevel(logging.DEBUG)
    try:
        adversarial_distances(model, x, y, [0.1], steps=2)
        assert root.level == logging.DEBUG
    finally:
        root.setLevel(level)
    assert modes == [part.training for part in model.modules()]
    assert needs == [part.requires_grad for part in model.parameters()]
    assert [None if part.grad is None else part.grad.tolist() for part in model.parameters()][-1] == [1.0, 1.0, 1.0]
    assert all(part.grad is None for part in list(model.parameters())[:-1])
    assert torch.equal(generators[0], torch.get_rng_state()) and generators[2] == random.getstate()
    assert generators[1] == np.random.get_state()[1].tolist()  # noqa: NPY002


def test_training_leaves_the_random_generators_and_loggers_as_they_were(tmp_path):
    logger = logging.getLogger("lightning.pytorch")
    before, level = torch.get_rng_state(), logger.level
    seeded = os.environ.get("PL_GLOBAL_SEED")
    assert run(["train", "mondeq", *SMALL, "--epochs", "1", "--json", "--out", str(tmp_path / "run")]) == 0
    assert torch.equal(before, torch.get_rng_state()) and logger.level == level
    assert os.environ.get("PL_GLOBAL_SEED") == seeded


@pytest.mark.parametrize(
    "options", [["--m", "inf"], ["--width", "-1"], ["--epochs", "0"], ["--rtol", "nan"], ["--activation", "x"]]
)
def test_an_option_with_an_unusable_value_is_one_line(options, capsys):
    assert run(["train", "mondeq", *options]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"wellposed: {options[0][2:]}=") and said.count("\n") == 1


@pytest.mark.parametrize(("own", "kept"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_of_the_command_wait_without_taking_the_processor(own, kept, monkeypatch):
    if own is None:
        monkeypatch.setenv("OMP_WAIT_POLICY", "")  # so that what was there before comes back
        monkeypatch.delenv("OMP_WAIT_POLICY")
    else:
        monkeypatch.setenv("OMP_WAIT_POLICY", own)
    with pytest.raises(SystemExit):
        main(["--help"])
    assert os.environ["OMP_WAIT_POLICY"] == kept


_FAULTS = """
import resource, torch
from wellposed.cli.memory import keep_memory
kept = keep_memory()
def work():
    parts = [torch.ones(300_000) for _ in range(8)]
    return sum(float(part[0]) for part in parts)
for _ in range(5):
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    work()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_freed_memory_is_kept_by_the_command():
    def faults(**environment):
        given = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
        done = subprocess.run(
            [sys.executable, "-c", _FAULTS], env=given | environment, capture_output=True,
            text=True, check=True,
        )  # fmt: skip
        kept, count = done.stdout.split()
        return kept == "True", int(count)

    kept, few = faults()
    if not kept:
        pytest.skip("the allocator is not glibc's")
    assert few < 200  # tens of thousands otherwise, unless something lies behind what is freed
    assert not faults(MALLOC_ARENA_MAX="8")[0]  # who has told the allocator something is heard

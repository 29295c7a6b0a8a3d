"""Options that nothing can be done with end a command at once, in one line that names them; taken from the parsers themselves."""

from __future__ import annotations

import random
import re
import time
from unittest import mock

import lightning
import pytest
import torch

import wellposed.reproduction.running
from harness.options import WITHOUT_PARSER, commands, help_of, lines, options_of
from wellposed.cli.commands import COMMANDS
from wellposed.cli.main import run
from wellposed.training.folder import RunFolder

pytestmark = [pytest.mark.float32, pytest.mark.usefixtures("short_search")]
LINES = list(lines())


class Began(BaseException):
    """Work began before all options were checked."""


def began(*_, **__):
    raise Began


@pytest.fixture(autouse=True)
def as_many_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A certified run, and what stands for a file, a folder and nothing."""
    root = tmp_path_factory.mktemp("places")
    assert (
        run(["train", "mondeq", "--data", "digits", "--epochs", "1", "--width", "4", "--out", str(root / "run")]) == 0
    )
    assert run(["certify", str(root / "run"), "--limit", "5"]) == 0
    (root / "file.txt").write_text("x", encoding="utf-8")
    (root / "folder").mkdir()
    return {"MISSING": root / "missing", "FILE": root / "file.txt", "FOLDER": root / "folder", "RUN": root / "run"}


def before(command, places):
    """What a command needs to do its work, but for the option that is tried."""
    about_a_run = {name: [str(places["RUN"])] for name in ("certify", "attack", "compare", "report", "export")}
    needed = {
        **about_a_run,
        "import": [str(places["FILE"])],
        "--quick": ["monotone-fig1b"],
        "bench": ["--only", "fixed-point"],
    }
    return needed.get(command[-1], [])


def check_line(line, places, capsys):
    capsys.readouterr()
    with (
        mock.patch.object(lightning.Trainer, "fit", began),
        mock.patch.object(wellposed.reproduction.running, "record_of", began),
        mock.patch("wellposed.benchmarking.fixed_point.contest", began),
        mock.patch("urllib.request.urlopen", side_effect=OSError("offline")),
    ):
        words = line.words(before(line.option.command, places), places)
        start = time.process_time()
        assert run(words) == 2, words
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("wellposed: ") and len(said) < 1500, (words, said)
    assert line.is_named(said, places), (words, said)
    assert time.process_time() - start < 10.0, words


def test_every_command_is_looked_at():
    assert {command[0] for command in commands()} | set(WITHOUT_PARSER) == set(COMMANDS)
    for command in (("certify",), ("import",), ("train", "mondeq"), ("reproduce", "risk")):
        told = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", help_of(command)))
        assert {option.name for option in options_of(command) if option.name} <= told
    assert len({line.option for line in LINES}) > 150


@pytest.mark.parametrize("kind", sorted({line.option.kind for line in LINES}))
def test_an_unusable_option_is_one_line(kind, places, capsys):
    chosen = {}
    for line in random.Random(0).sample(LINES, len(LINES)):
        chosen.setdefault((line.option.field, line.value if line.option.command[0] != "train" else ""), line)
    for line in chosen.values():
        if line.option.kind == kind:
            check_line(line, places, capsys)


@pytest.mark.slow
@pytest.mark.parametrize(
    "line", LINES, ids=lambda line: f"{' '.join(line.option.command)} {line.option.field} {line.value}"
)
def test_every_unusable_option_is_one_line(line, places, capsys):
    check_line(line, places, capsys)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["verify"], "CERTIFICATE"), (["verify", "--x", "a", "b"], "--x"), (["verify", "", ""], "empty"),
        (["verify", "FILE", "FILE"], "FILE"),
        (["verify", "MISSING", "FILE"], "MISSING"), (["verify", "FOLDER", "FOLDER"], "FOLDER"), (["verify", "FOLDER"], "FOLDER"),
        (["presets", "--x"], "--x"), (["presets", ""], "empty"), ([""], "empty"), (["x"], "command"),
        (["train", ""], "empty"), (["train", "x"], "family"), (["train", "--preset"], "--preset"),
        (["train", "--preset="], "preset"),
        (["train", "mondeq", "--out"], "--out"), (["train", "--resume"], "family"),
        (["train", "--resume", "--out", "MISSING"], "MISSING"),
        (["reproduce", ""], "empty"), (["reproduce", "--list", "--x"], "--x"), (["certify", "RUN", "--jobs", "2"], "jobs"),
        (["certify", "RUN", "--eps"], "eps"), (["certify", "RUN", "--limit"], "--limit"), (["certify", "RUN", "RUN"], "RUN"),
        (["train", "mondeq", "--width", "1000000"], "width=1000000"), (["train", "sll", "--depth", "1000000000000"], "depth"),
        (["train", "mondeq", "--width", "100000000000"], "memory"), (["train", "ignn", "--depth", "10001"], "depth=10001"),
        (["certify", "RUN", "--norm", "l1", "--method", "ladder"], "norm"), (["bench", "--threads", "2"], "threads"),
    ],
)  # fmt: skip
def test_other_unusable_lines(words, named, places, capsys):
    capsys.readouterr()
    assert run([str(places.get(word, word)) for word in words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str(places.get(named, named)) in said, said


def test_nothing_was_written(places):
    assert RunFolder(places["RUN"]).is_finished and not places["MISSING"].exists()
    assert not any(places["FOLDER"].iterdir())

"""The commands and the code of docs/own-data.md run as they stand, on a table of measurements."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from test_own_data import wine
from wellposed.cli.main import run

pytestmark = pytest.mark.float32
PAGE = (Path(__file__).parent.parent / "docs" / "own-data.md").read_text(encoding="utf-8")


def test_every_command_and_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    wine(tmp_path)
    commands = re.findall(r"^wellposed (.*)$", PAGE, re.MULTILINE)
    assert len(commands) == 4
    first, *later = commands
    assert run(shlex.split(first)) == 0  # one command, from file to certified table
    assert re.search(r"radius +clean +2L rule +certified.*\n +\d", capsys.readouterr().out)
    assert (
        run(["train", "--resume", "--out", "runs/wine", "--certify", "--json"]) == 0
    )  # finished: only certified again
    assert json.loads(capsys.readouterr().out)["units"] == "the columns' own units in wine.csv"
    for command in later:
        assert run(shlex.split(command)) == 0, command
    assert (tmp_path / "runs" / "wine" / "report.html").exists()
    assert "the columns' own units in wine.csv" in capsys.readouterr().out
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 5 and len(blocks[0].strip().splitlines()) <= 15
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)  # later examples build on earlier ones
    assert "certified" in capsys.readouterr().out
    assert names["z"].shape == (36, 8) and (tmp_path / "network" / "card.md").exists()
    assert run(["certify", "network", "--data", "wine.csv", "--target", "cultivar"]) == 0
    assert "on all 178 training samples" in capsys.readouterr().out

"""The commands and the code of docs/own-data.md run as they stand, on a table of measurements."""

from __future__ import annotations

import json
import re

import pytest

from harness.documents import ROOT, blocks, run_page
from test_own_data import wine
from wellposed.cli.main import run

pytestmark = pytest.mark.float32
PAGE = ROOT / "docs" / "own-data.md"


def test_every_command_and_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    wine(tmp_path)
    names: dict[str, object] = {}
    done = run_page(PAGE, monkeypatch, names)
    assert [how for _, how in done] == ["run"] * 4
    first = next(text for language, text in blocks(PAGE) if language == "python")
    assert len(first.strip().splitlines()) <= 15
    assert (tmp_path / "runs" / "wine" / "report.html").exists()
    out = capsys.readouterr().out
    assert "the columns' own units in wine.csv" in out
    assert re.search(r"radius +clean +2L rule +certified.*\n +\d", out)  # one command, from file to certified table
    # A finished run is only certified again.
    assert run(["train", "--resume", "--out", "runs/wine", "--certify", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["units"] == "the columns' own units in wine.csv"
    assert names["z"].shape == (36, 8) and (tmp_path / "network" / "card.md").exists()
    assert run(["certify", "network", "--data", "wine.csv", "--target", "cultivar"]) == 0
    assert "on all 178 samples" in capsys.readouterr().out

"""Folders and files whose names are no UTF-8: every command reads and writes them, and messages can be printed."""

from __future__ import annotations

import json
import os
import sys

import numpy as np
import pytest
import torch

import wellposed as wp
from wellposed.cli.commands import COMMANDS
from wellposed.cli.main import run

pytestmark = [
    pytest.mark.float32,
    pytest.mark.usefixtures("short_search"),
    pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux alone"),
]

ODD = os.fsdecode(b"caf\xe9")
SMALL = ["--epochs", "1", "--width", "8", "--json"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a table, and a run on it, all with such names."""
    folder = tmp_path_factory.mktemp("names") / ODD
    folder.mkdir()
    rows = np.random.default_rng(0).normal(size=(60, 2)).tolist()
    table = folder / f"{ODD}.csv"
    table.write_text("\n".join(["a,b,y", *(f"{a},{b},{int(a > 0)}" for a, b in rows)]), encoding="utf-8")
    words = ["--data", str(table), "--target", "y", "--out", str(folder / f"{ODD}-run")]
    assert run(["train", "mondeq", *words, *SMALL]) == 0
    return folder


WORDS = {
    "certify": ["RUN"], "certify --deployed": ["RUN", "--deployed"], "certify --data": ["RUN", "--data", "TABLE"],
    "attack": ["RUN", "--limit", "5", "--steps", "2"], "export": ["RUN", "--out", f"PLACE/{ODD}.onnx"],
    "verify": ["RUN"], "report": ["RUN"], "compare": ["RUN", "RUN", "--out", f"PLACE/{ODD}-page"],
    "train": ["mondeq", "--resume", "--out", "RUN"],
}  # fmt: skip


def test_commands_take_names_that_are_no_utf8(place, capsys):
    for words, options in WORDS.items():
        named = {"RUN": str(place / f"{ODD}-run"), "TABLE": str(place / f"{ODD}.csv")}
        given = [named.get(option, option.replace("PLACE", str(place))) for option in options]
        capsys.readouterr()
        assert run([words.split()[0], *given]) == 0, (words, ascii(capsys.readouterr().err))
        said = capsys.readouterr()
        (said.out + said.err).encode(errors="surrogateescape")
    assert json.loads((place / f"{ODD}-run" / "certified.json").read_text())["lipschitz"] > 0
    for page in (place / f"{ODD}-run" / "report.html", place / f"{ODD}-page" / "compare.html"):
        assert "caf\\udce9" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"presets"}))
def test_a_place_that_is_not_there_is_named(command, capsys):
    options = {
        "train": ["mondeq", "--data", f"{ODD}.csv"], "reproduce": [ODD], "bench": ["--only", ODD], "verify": [ODD, ODD],
        "import": [ODD, "--as", "locuslab-mondeq", "--m", "20"],
    }  # fmt: skip
    assert run([command, *options.get(command, [f"{ODD}-none"])]) == 2
    said = capsys.readouterr().err
    assert said.startswith("wellposed: ") and "caf" in said and said.count("\n") == 1


def test_networks_are_saved_and_loaded(place):
    model = torch.nn.Sequential(wp.MonDEQ(3, 4), torch.nn.Linear(4, 2))
    wp.save(model, place / f"{ODD}-network", input_shape=(3,))
    assert wp.load(place / f"{ODD}-network").network.input_shape == (3,)

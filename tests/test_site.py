"""The pages: their commands and code run, the site is built without a broken link, and it can be read in a narrow window."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from harness.pages import ROOT, blocks, commands, run_page

import wellposed as wp
from test_graphs import small_set as small_set
from test_own_data import idx
from wellposed.bounds.collection import bound_methods
from wellposed.errors import OwnFileWarning

pytestmark = pytest.mark.float32
DOCS = ROOT / "docs"
PAGES = sorted({*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"})
OWN_TESTS = ("own-data.md",)  # test_own_data_page.py
# How many commands of a page run, rather than being read: what needs published weights, a cluster or hours does not.
RUN = {"README.md": 14, "tutorial.md": 7, "robustness.md": 2, "graphs.md": 3, "certify-your-own.md": 1, "deployed.md": 4}


@pytest.fixture
def data(small_set):
    """A folder of data sets: forty graphs called MUTAG, and thirty images in the layout of MNIST."""
    folder = small_set / "MNIST" / "raw"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for part, count in (("train", 30), ("t10k", 20)):
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(idx(random.integers(0, 256, (count, 7, 6))))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx(np.arange(count) % 10))
    return small_set


@pytest.fixture
def forgets_bounds():
    """Bounds that a page registers are forgotten after it."""
    before = bound_methods()
    yield
    for method in set(bound_methods()) - set(before):
        wp.unregister_bound(method)


def given(page):
    """What a page refers to that another one made: names, and files in the current folder."""
    if page.name not in ("certificates.md", "deployed.md"):
        return {}
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), wp.MonDEQ(784, 8), torch.nn.Linear(8, 3)).eval()
    x = torch.rand(6, 1, 28, 28)
    if page.name == "deployed.md":
        wp.save(model, "folder", input_shape=(1, 28, 28))
        shutil.copy("folder/model.onnx", "model.onnx")
    return {"model": model, "x": x, "y": model(x).argmax(1), "torch": torch, "wp": wp, "wellposed": importlib.import_module("wellposed")}


@pytest.mark.filterwarnings(f"ignore::{OwnFileWarning.__module__}.{OwnFileWarning.__name__}")
@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in OWN_TESTS], ids=lambda page: page.name)
def test_every_block_runs(page, data, tmp_path, monkeypatch, forgets_bounds):
    if not any(language == "python" or commands(text) for language, text in blocks(page)):
        return
    folder = tmp_path / "page"
    folder.mkdir()
    monkeypatch.chdir(folder)
    done = run_page(page, monkeypatch, given(page), data)
    ran = [line for line, how in done if how == "run"]
    assert len(ran) == RUN.get(page.name, 0), "\n".join(f"{how}: {line}" for line, how in done)


def test_every_new_name_of_the_migration_exists():
    """Names in the right column that are imported, and names in the left one that still exist where they should be gone."""
    page = (DOCS / "migration.md").read_text(encoding="utf-8")
    rows = [line.strip("| \n").split(" | ") for line in page.splitlines() if line.startswith("| `")]
    assert len(rows) >= 50
    new = {name for row in rows for name in re.findall(r"\b(?:wellposed|wp)\.[\w.]*\w", row[-1])}
    assert len(new) >= 30
    for name in new:
        assert found(name), name


def found(name):
    """Whether a dotted name leads somewhere: through modules, and from there through attributes."""
    parts = name.replace("wp.", "wellposed.", 1).split(".") if name.startswith("wp.") else name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            if not hasattr(value, part):
                return False
            value = getattr(value, part)
        return True
    return False


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site; building it strictly finds broken links, anchors, and pages that the navigation lacks."""
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    pytest.importorskip("mkdocstrings_handlers.python", reason="the extra docs is not installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert found.returncode == 0, found.stderr[-3000:]
    return folder

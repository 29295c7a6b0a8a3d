"""The wheel, beside nothing but what it depends on, solves, certifies, exports and verifies."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import wellposed
from harness.dependencies import EVERY_ACTION, PROJECT, distributions

pytest.importorskip("hatchling")
ROOT = PROJECT.parent
VERSION = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["version"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this tree, of a copy, as building writes beside the sources."""
    place = tmp_path_factory.mktemp("build")
    shutil.copytree(ROOT / "src", place / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, place)
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel"], cwd=place, check=True, capture_output=True
    )
    (built,) = (place / "dist").glob("*.whl")
    return built


def test_the_wheel_holds_the_whole_library_and_nothing_else(wheel):
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    sources = Path(wellposed.__file__).parent
    files = {path for path in sources.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert packed == {str(path.relative_to(sources.parent)) for path in files}
    assert wheel.name == f"wellposed-{VERSION}-py3-none-any.whl"


def test_the_installed_wheel_needs_only_its_dependencies(wheel, tmp_path):
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    for name in distributions() - {"wellposed"}:
        installed = metadata.distribution(name)
        for top in {file.parts[0] for file in installed.files or ()} - {"..", "__pycache__"}:
            (site / top).symlink_to(Path(str(installed.locate_file(top))).resolve())
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import wellposed\nprint(wellposed.__version__, wellposed.__file__)\n{EVERY_ACTION}"],
        cwd=tmp_path, env={**environment, "PYTHONPATH": str(site)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{VERSION} {site}") and done.stdout.count("the certificate holds") == 2


def test_every_file_that_names_the_version_names_this_one():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    newest = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").split("\n## ")[1]
    (released,) = (line.partition(": ")[2] for line in citation.splitlines() if line.startswith("date-released"))
    assert f"\nversion: {VERSION}\n" in citation
    assert newest.startswith(f"{VERSION} ({released})\n")

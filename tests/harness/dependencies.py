"""What the library's own dependencies bring, and running code where nothing else is there."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
# Everything that is installed and is in no distribution of those given is missing.
BLOCKED = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in FOREIGN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
"""
EVERY_ACTION = """
import pathlib, runpy, sys, tempfile
import torch
import wellposed as wp
from wellposed.cli.main import run

torch.manual_seed(0)
layer = wp.MonDEQ(4, 3)
model = torch.nn.Sequential(layer, torch.nn.Linear(3, 2))
x = torch.rand(5, 4)
model(x).sum().backward()
solution = layer.solve(x)
assert solution.converged.all() and float(solution.error_bound.max()) < 1e-3
certificate = wp.certify(model, inputs=x)
assert certificate.check() and 0.0 < certificate.lower_bound <= certificate.lipschitz
with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    files = [str(folder / part) for part in ("certificate.json", "model.onnx")]
    network = wp.export(model.eval(), files[1])
    wp.certify_file(wp.certify(network), files[1], files[0])
    wp.save(model, folder / "saved")
    assert run(["verify", *files]) == 0 and run(["verify", files[0]]) == 2 and run(["verify", files[1], files[0]]) == 2
    sys.argv[1:] = files
    runpy.run_module("wellposed.checker", run_name="__main__")
"""


def _name(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


@functools.cache
def distributions() -> frozenset[str]:
    """The library's distribution, and all that it depends on without an extra, by name."""
    found = {"wellposed"}
    new = {_name(line) for line in tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["dependencies"]}
    while new:
        found |= new
        asked = [line for name in new for line in metadata.requires(name) or () if "extra ==" not in line]
        new = {name for line in asked if _installed(name := _name(line))} - found
    return frozenset(found)


def _installed(name: str) -> bool:
    return any(True for _ in metadata.distributions(name=name))


def foreign() -> set[str]:
    """Top-level modules that are installed, and that the library does not depend on."""
    owners = metadata.packages_distributions()
    return {module for module, names in owners.items() if not {_name(name) for name in names} & distributions()}


def run_without_extras(code: str) -> subprocess.CompletedProcess[str]:
    """Run code where only the library and what it depends on can be imported."""
    return subprocess.run(
        [sys.executable, "-c", f"FOREIGN = {foreign()!r}\n{BLOCKED}{code}"], capture_output=True, text=True, check=False
    )

"""The library works without its extras, and says which one is missing where it needs one."""

from __future__ import annotations

import subprocess
import sys

WITHOUT_EXTRAS = """
import importlib, pkgutil, sys

EXTRAS = {
    "lightning", "sklearn", "tyro", "tomli_w", "rich", "matplotlib", "jinja2", "foolbox", "eagerpy", "pyautoattack",
    "torch_geometric", "torchdeq", "jax", "scipy", "cvxpy", "hypothesis", "pytest", "PIL", "onnxruntime", "flint",
    "joblib", "ray",
}

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in EXTRAS:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
"""
EVERY_MODULE = """
import wellposed

ABOVE = ("wellposed.cli", "wellposed.training", "wellposed.testing")  # rooms whose modules may need an extra to be imported
count = 0
for found in pkgutil.walk_packages(wellposed.__path__, "wellposed.", onerror=lambda name: None):
    if not found.name.startswith(ABOVE) and not found.name.endswith("__main__"):
        importlib.import_module(found.name)
        count += 1
assert count > 200, count
"""
TRAINED_AND_CERTIFIED = """
import torch

model = torch.nn.Sequential(wellposed.MonDEQ(4, 3), torch.nn.Linear(3, 2))
model(torch.rand(5, 4)).sum().backward()
assert wellposed.certify(model, inputs=torch.rand(5, 4)).check()
"""
VERIFIED = """
import pathlib, runpy, tempfile
import torch
from wellposed.cli.main import run

with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    files = [str(folder / part) for part in ("certificate.json", "model.onnx")]
    network = wellposed.export(torch.nn.Sequential(wellposed.MonDEQ(4, 3), torch.nn.Linear(3, 2)).eval(), files[1])
    wellposed.certify_file(wellposed.certify(network), files[1], files[0])
    assert run(["verify", *files]) == 0 and run(["verify", files[0]]) == 2 and run(["verify", files[1], files[0]]) == 1
    sys.argv[1:] = files
    runpy.run_module("wellposed.checker", run_name="__main__")
"""
NEEDS_EXTRAS = """
import torch
from wellposed.attacks import adversarial_distances
from wellposed.errors import MissingExtraError

try:
    adversarial_distances(torch.nn.Linear(2, 2), torch.zeros(1, 2), torch.zeros(1, dtype=torch.long), [0.1])
except MissingExtraError as error:
    print(error)
try:
    import wellposed.testing
except MissingExtraError as error:
    print(error)
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", WITHOUT_EXTRAS + code], capture_output=True, text=True, check=False)


def test_the_library_imports_none_of_the_extras_and_works_without_them():
    done = run(EVERY_MODULE + TRAINED_AND_CERTIFIED)
    assert done.returncode == 0, done.stderr


def test_certificates_are_verified_without_extras():
    done = run("import wellposed" + VERIFIED)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the certificate holds") == 2


def test_missing_extras_are_named():
    done = run(NEEDS_EXTRAS)
    assert done.returncode == 0, done.stderr
    assert "pip install 'wellposed[attack]'" in done.stdout and "pip install 'wellposed[testing]'" in done.stdout

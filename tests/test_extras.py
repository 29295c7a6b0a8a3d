"""The library works without its extras, and says which one is missing where it needs one."""

from __future__ import annotations

from harness.dependencies import EVERY_ACTION, distributions, foreign, run_without_extras

EVERY_MODULE = """
import importlib, pkgutil
import wellposed

ABOVE = ("wellposed.cli", "wellposed.training", "wellposed.testing")  # rooms whose modules may need an extra to be imported
count = 0
for found in pkgutil.walk_packages(wellposed.__path__, "wellposed.", onerror=lambda name: None):
    if not found.name.startswith(ABOVE) and not found.name.endswith("__main__"):
        importlib.import_module(found.name)
        count += 1
assert count > 200, count
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


def test_what_the_library_depends_on():
    assert {"wellposed", "torch", "numpy", "safetensors", "onnx"} <= distributions()
    assert {"pytest", "tyro", "scipy", "lightning"} <= foreign() and not foreign() & {"torch", "numpy", "onnx"}


def test_every_module_can_be_imported_without_the_extras():
    done = run_without_extras(EVERY_MODULE)
    assert done.returncode == 0, done.stderr


def test_networks_are_solved_certified_exported_and_verified_without_extras():
    done = run_without_extras(EVERY_ACTION)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the certificate holds") == 2


def test_missing_extras_are_named():
    done = run_without_extras(NEEDS_EXTRAS)
    assert done.returncode == 0, done.stderr
    assert "pip install 'wellposed[attack]'" in done.stdout and "pip install 'wellposed[testing]'" in done.stdout

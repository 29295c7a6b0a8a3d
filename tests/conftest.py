"""Settings of the whole suite."""

import sys
from pathlib import Path

import pytest
import torch

from wellposed.testing import use_environment

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
use_environment()


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Tests marked float32 make their tensors and models in float32, those of their fixtures included."""
    before = torch.get_default_dtype()
    if item.get_closest_marker("float32"):
        torch.set_default_dtype(torch.float32)
    try:
        return (yield)
    finally:
        torch.set_default_dtype(before)


def pytest_addoption(parser):
    parser.addoption("--fast", action="store_true", help="only the tests of tests/fast.txt, two minutes in all")
    parser.addoption("--touches-every-module", action="store_true", help="fail if a file of the library was not called")


def pytest_configure(config):
    if config.getoption("--touches-every-module"):
        from harness.touched import Touched

        config.pluginmanager.register(Touched())


def fast_tests():
    """The lines of tests/fast.txt: a test, all of its parameters, or all tests of a class."""
    lines = (HERE / "fast.txt").read_text(encoding="utf-8").splitlines()
    return [f"tests/{line}" for line in lines if line and not line.startswith("#")]


def pytest_ignore_collect(collection_path, config):
    if config.getoption("--fast") and collection_path.suffix == ".py":
        return collection_path.name not in {line.partition("::")[0].rpartition("/")[2] for line in fast_tests()}
    return None


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--fast"):
        return
    lines = fast_tests()
    chosen = {
        line: [item for item in items if item.nodeid == line or item.nodeid.startswith((f"{line}[", f"{line}::"))]
        for line in lines
    }
    missing = [line for line, found in chosen.items() if not found]
    if missing:
        raise pytest.UsageError(f"tests/fast.txt names tests that do not exist: {', '.join(missing)}")
    kept = {id(item) for found in chosen.values() for item in found}
    config.hook.pytest_deselected(items=[item for item in items if id(item) not in kept])
    items[:] = [item for item in items if id(item) in kept]

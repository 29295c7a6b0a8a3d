"""Settings of the whole suite."""

import gc
import sys
from collections import defaultdict
from functools import partial
from pathlib import Path

import pytest
import torch

from wellposed.lower_bounds.witness import witness
from wellposed.testing import use_environment

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
use_environment()
gc.disable()  # what collection makes is kept: looking through it for garbage takes as long again


@pytest.hookimpl(wrapper=True)
def pytest_collection(session):
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def short_search():
    """Lower bounds that no test of a module needs to be close are searched for in two rounds instead of twenty."""
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr("wellposed.certificates.certification.witness", partial(witness, rounds=2))
        yield


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


def lines_of(name):
    """The lines of a list of tests: a file, a class, a test with all of its parameters, or a test with some of them."""
    lines = (HERE / name).read_text(encoding="utf-8").splitlines()
    return [f"tests/{line}" for line in lines if line and not line.startswith("#")]


def named_by(lines, items):
    """The collected tests that each line names."""
    found = defaultdict(list)
    for item in items:
        parts = item.nodeid.partition("[")[0].split("::")
        for name in {item.nodeid, *("::".join(parts[:count]) for count in range(1, len(parts) + 1))}:
            found[name].append(item)
    return {line: found[line] for line in lines}


def all_exist(name, found):
    missing = [line for line, items in found.items() if not items]
    if missing:
        raise pytest.UsageError(f"tests/{name} names tests that do not exist: {', '.join(missing)}")


def pytest_ignore_collect(collection_path, config):
    if config.getoption("--fast") and collection_path.suffix == ".py":
        return collection_path.name not in {line.partition("::")[0].rpartition("/")[2] for line in lines_of("fast.txt")}
    return None


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their markers
def pytest_collection_modifyitems(config, items):
    thorough = named_by(lines_of("thorough.txt"), items)
    for found in thorough.values():
        for item in found:
            item.add_marker("thorough")
    if not config.getoption("--fast"):
        if config.args_source is pytest.Config.ArgsSource.TESTPATHS:
            all_exist("thorough.txt", thorough)
        return
    chosen = named_by(lines_of("fast.txt"), items)
    all_exist("fast.txt", chosen)
    kept = {id(item) for found in chosen.values() for item in found}
    config.hook.pytest_deselected(items=[item for item in items if id(item) not in kept])
    items[:] = [item for item in items if id(item) in kept]

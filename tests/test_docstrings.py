"""The examples of the docstrings run as they stand, with torch, nn and wellposed as wp at hand."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest
import torch
from torch import nn

import wellposed as wp

SOURCE = Path(wp.__file__).parent
MODULES = [
    ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts)
    for path in sorted(SOURCE.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]
ENTRY_POINTS = (wp.MonDEQ, wp.LBEN, wp.certify, wp.materialise, wp.fixed_point, wp.witness, wp.well_posedness)


@pytest.mark.float32
@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module, extraglobs={"torch": torch, "nn": nn, "wp": wp})
    assert result.attempted > 0 and result.failed == 0


@pytest.mark.parametrize("entry", ENTRY_POINTS, ids=lambda entry: entry.__name__)
def test_the_main_entry_points_have_examples(entry):
    assert ">>> " in entry.__doc__

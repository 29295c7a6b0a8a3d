"""A lower bound above the upper one is an error wherever it is seen."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

import wellposed as wp
from harness.results import unsealed
from wellposed.certificates.order import must_be_ordered
from wellposed.experiments.presets import Record
from wellposed.experiments.results import Certified, keep_certified, read_certified
from wellposed.experiments.tables import Summary, summarise
from wellposed.training.folder import RunFolder

MAKERS = {
    "run": lambda low, high: Certified(high, low, 0.1, {"gap": [0.0]}, ""),
    "table": lambda low, high: Summary("run", 1, "images", 0.1, high, low, []),
    "record": lambda low, high: Record("p", "f", 1, 0, 0.1, high, low, 1.0, [0.0], 1.0, {}),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_results_are_refused(make):
    for low, high in ((1.0, 1.0), (0.0, 2.0), (1.0, math.inf)):
        make(low, high)
    for low, high in ((1.0 + 2.0**-52, 1.0), (2.0, 0.5), (math.nan, 1.0), (1.0, math.nan), (math.inf, 1.0)):
        with pytest.raises(wp.CertificateError, match="contradiction: lipschitz is at least"):
            make(low, high)


def test_one_bound_alone_contradicts_nothing():
    must_be_ordered(None, 1.0)
    must_be_ordered(1.0, None)
    Summary("run", 1, "images", 0.1, None, None, [])


def test_a_file_that_contradicts_itself_is_refused(tmp_path: Path):
    run = RunFolder(tmp_path)
    run.weights.write_bytes(b"weights")
    from wellposed.training.files import file_digest

    keep_certified(tmp_path, Certified(2.0, 1.0, 0.1, {"gap": [0.5]}, file_digest(run.weights)))
    assert read_certified(tmp_path).lower_bound == 1.0
    content = unsealed(run.certified)
    run.certified.write_text(json.dumps({**content, "lower_bound": 3.0}))
    for read in (read_certified, lambda path: summarise(path, [0.1])):
        with pytest.raises(wp.CertificateError, match="contradiction"):
            read(tmp_path)

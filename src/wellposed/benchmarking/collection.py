"""All benchmarks by their names, and how they are run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from wellposed.benchmarking.benchmark import Benchmark, Options
from wellposed.benchmarking.certify import CERTIFY
from wellposed.benchmarking.compiled import COMPILED
from wellposed.benchmarking.deployed import DEPLOYED
from wellposed.benchmarking.evaluation import EVALUATION
from wellposed.benchmarking.fixed_point import FIXED_POINT
from wellposed.benchmarking.iteration import ITERATION
from wellposed.benchmarking.metric import METRIC
from wellposed.benchmarking.row import Record
from wellposed.benchmarking.training import TRAINING
from wellposed.errors import choices
from wellposed.training.environment import environment

_ALL = (FIXED_POINT, TRAINING, EVALUATION, DEPLOYED, CERTIFY, METRIC, ITERATION, COMPILED)
BENCHMARKS: dict[str, Benchmark] = {benchmark.name: benchmark for benchmark in _ALL}


def run_benchmarks(
    names: Sequence[str], options: Options, out: Path, *, command: list[str], done: Callable[[int], None]
) -> list[Record]:
    """Measure benchmarks on one thread, and write a record of each.

    Args:
        names: of benchmarks; empty for all.
        options: how to measure.
        out: folder for the records, NAME.json; earlier records of these benchmarks are replaced.
        command: what is noted as the command.
        done: called with the number of finished rows.
    """
    for name in names:
        choices("only", name, tuple(BENCHMARKS))
    threads, records, count = torch.get_num_threads(), list[Record](), 0
    torch.set_num_threads(1)
    try:
        for name in names or BENCHMARKS:
            record = Record(name, environment(command), ())
            for row in BENCHMARKS[name].rows(options):
                record = replace(record, rows=(*record.rows, row))
                record.write(out / f"{name}.json")  # after every row: an interruption loses the rest only
                count += 1
                done(count)
            records.append(record)
    finally:
        torch.set_num_threads(threads)
    return records

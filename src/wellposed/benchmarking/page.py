"""docs/speed.md, from the records alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wellposed.benchmarking.collection import BENCHMARKS
from wellposed.benchmarking.gpu_tables import gpu_part
from wellposed.benchmarking.pictures import SENTENCE
from wellposed.benchmarking.row import Record
from wellposed.benchmarking.tables import as_markdown

_TOP = """# Speed

`make bench` measures this page on the CPU, `make gpu` on an NVIDIA GPU; both write records, and `python docs/speed.py` makes the
page of them. `wellposed bench --quick --only fixed-point` shows in seconds that it works.

Every line is a ratio of times, ours over a named rival's: below one, ours is faster. Accuracy comes first: errors are relative,
against float64, the median and the worst; where one of ours is above the rival's, the line says so. Then both run in turns on one
thread; times are CPU times of a process with all of its threads; ratios are formed turn by turn, and their median and quartiles
are given. Absolute times depend on the machine and on what else it does.
"""


def records_in(folder: Path) -> dict[str, Record]:
    """The records of a folder by the names of their benchmarks."""
    return {name: Record.read(folder / f"{name}.json") for name in BENCHMARKS if (folder / f"{name}.json").exists()}


def page(folder: Path) -> str:
    """The page.

    Args:
        folder: of the records.
    """
    records = records_in(folder)
    parts = [_part(name, records.get(name)) for name in BENCHMARKS]
    return "\n".join([_TOP, *parts, gpu_part(folder / "gpu.json")])


def _part(name: str, record: Record | None) -> str:
    benchmark = BENCHMARKS[name]
    begin = f"## {benchmark.title}\n\n{benchmark.explained}\n"
    if record is None:
        return f"{begin}\nNot measured.\n"
    picture = ""
    if any(row.is_measured for row in record.rows):
        picture = f"![{benchmark.title}](figures/speed-{name}.svg)\n\n{SENTENCE}\n\n"
    return f"{begin}\n{picture}{as_markdown(benchmark, record)}\n\n{measured_on(record.environment)}\n"


def measured_on(environment: dict[str, Any]) -> str:
    """The sentence that says where and with what a record was measured."""
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    return (
        f"Measured on {environment['date']} at commit {environment['commit']} by `{environment['command']}`: "
        f"{environment['processor']}, {environment['threads']} thread, Python {environment['python']}, {versions}."
    )

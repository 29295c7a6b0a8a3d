"""The part of docs/speed.md about a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wellposed.benchmarking.tables import table

_CASES = (
    "MonDEQ, 200 wide", "MonDEQ, 512 wide", "MonDEQ, 2048 wide", "ConvMonDEQ, 81 × 32²", "ConvMonDEQ, 200 × 32²",
)  # fmt: skip
_HEADER = (
    "layer", "batch", "errors, median", "worst", "iteration, ms", "share of the roofline", "solve, ms",
    "forward and backward, ms",
)  # fmt: skip
_TOP = """## On a GPU

`make gpu` runs the CUDA tests, layers with 784 inputs at batches from 128 to 4096 and convolutions at the size of CIFAR's
images, and one epoch of a preset, float32. The share of the roofline is the least time that the measured memory bandwidth and
throughput of matrix products allow for one iteration, which must read a state and an offset and write a state, over the time
that it takes.
"""


def gpu_part(path: Path) -> str:
    """Markdown of the record in a file; "not measured" in every row where there is none."""
    if not path.exists():
        return f"{_TOP}\n{table(_HEADER, [(case, '–', 'not measured', *('–',) * 5) for case in _CASES])}\n"
    record = json.loads(path.read_text(encoding="utf-8"))
    noted = record["environment"]
    where = (
        f"Measured on {noted['date']} at commit {noted['commit']} by `{noted['command']}`: {noted['device']}, Python "
        f"{noted['python']}, torch {noted['versions']['torch']}. Tests: {record.get('tests', 'not run')}."
    )
    parts = [
        _TOP,
        where,
        _limits(record.get("roofline")),
        table(_HEADER, [_cells(row) for row in record.get("rows", ())]),
    ]
    return "\n\n".join(part.strip() for part in (*parts, _epoch(record.get("epoch")))) + "\n"


def _limits(limits: dict[str, float] | None) -> str:
    if limits is None:
        return "Roofline: not measured."
    return (
        f"Roofline: {limits['bandwidth'] / 1e9:.0f} GB/s for a copy, {limits['throughput'] / 1e12:.1f} TFLOP/s for products of "
        "large matrices."
    )


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["case"], str(row["batch"]), *(f"{error:.1e}" for error in row["errors"]), f"{row['iteration_ms']:.3g}",
        f"{100 * row['share']:.0f} %", f"{row['solve_ms']:.3g}", f"{row['step_ms']:.3g}",
    )  # fmt: skip


def _epoch(found: dict[str, Any] | None) -> str:
    if found is None:
        return "Epoch: not measured."
    rate = found["seen"] / found["seconds"]
    return (
        f"One epoch of `{found['preset']}` on {found['data']}: {found['seen']} of {found['images']} images in "
        f"{found['seconds']:.0f} s, {rate:.0f} images a second."
    )

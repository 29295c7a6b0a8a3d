"""The rows of a benchmark as a Markdown table."""

from __future__ import annotations

from collections.abc import Sequence

from wellposed.benchmarking.benchmark import Benchmark
from wellposed.benchmarking.row import Record, Row

_HEADER = ("case", "ours", "rival", "ratio", "quartiles", "ours, ms", "rival, ms", "turns")


def as_markdown(benchmark: Benchmark, record: Record) -> str:
    """One line per row: the ratio of times with its quartiles, median times, errors, and whether ours is as exact."""
    errors = f"errors, ours / rival: {'; '.join(benchmark.errors)}"
    return table((*_HEADER, errors, "as exact"), [_cells(row) for row in record.rows])


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *lines))


def _cells(row: Row) -> tuple[str, ...]:
    if not row.is_measured:
        return (row.case, row.ours, row.rival, row.remark, *("–",) * 6)
    errors = "; ".join(f"{own:.3g} / {other:.3g}" for own, other in zip(*row.errors, strict=True))
    return (
        row.case, row.ours, row.rival, f"{row.ratio:.3g}", f"{row.spread[0]:.3g} to {row.spread[1]:.3g}",
        f"{row.milliseconds[0]:.4g}", f"{row.milliseconds[1]:.4g}", str(row.turns), errors,
        "yes" if row.as_exact else "no, less exact",
    )  # fmt: skip

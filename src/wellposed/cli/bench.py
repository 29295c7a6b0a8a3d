"""``wellposed bench``: speed against named rivals."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from wellposed.cli.options import Common, parse, show
from wellposed.cli.progress import counting
from wellposed.errors import check


@dataclass(frozen=True)
class Bench(Common):
    """Time this library against its rivals, accuracy first, in turns, on one thread; rivals that are missing are named."""

    only: tuple[str, ...] = ()
    """Only these benchmarks: fixed-point, training, evaluation, deployed, certify, metric, iteration, compiled."""
    quick: bool = False
    """Small cases and a few turns: seconds, to see that everything works."""
    against: Path | None = None
    """Another checkout of this library, as a rival in training and certify."""
    out: Path = Path("runs/bench")
    """Folder of the records, one JSON file per benchmark."""


def bench(arguments: list[str]) -> int:
    """``wellposed bench``."""
    options = parse(Bench, arguments, "wellposed bench")
    from wellposed.benchmarking.benchmark import Options
    from wellposed.benchmarking.collection import BENCHMARKS, run_benchmarks
    from wellposed.benchmarking.contestant import source_of
    from wellposed.benchmarking.tables import as_markdown
    from wellposed.training.files import make_folder

    check(options.threads in (None, 1), "threads", options.threads, "benchmarks run on one thread")
    if options.against is not None:
        source_of(options.against)  # which refuses what is no checkout before hours are spent
    make_folder(options.out)
    how = Options(options.quick, options.against)
    with counting("rows measured", quiet=options.json) as done:
        # Folders are each machine's own.
        quick, only = ["--quick"] * options.quick, ["--only", *options.only] if options.only else []
        command = ["wellposed", "bench", *quick, *only]
        records = run_benchmarks(options.only, how, options.out, command=command, done=done)
    text = "\n\n".join(
        f"{BENCHMARKS[record.benchmark].title}\n\n{as_markdown(BENCHMARKS[record.benchmark], record)}"
        for record in records
    )
    return show([asdict(record) for record in records], text, options)

"""`certify` without inputs, all class pairs included, against another checkout of this library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from wellposed.benchmarking import certify_subject
from wellposed.benchmarking.benchmark import Benchmark, Options
from wellposed.benchmarking.contest import Rules, contest
from wellposed.benchmarking.contestant import OWN, elsewhere, source_of, version_at
from wellposed.benchmarking.row import Row

_SUBJECT = Path(certify_subject.__file__)


def rows(options: Options) -> Iterator[Row]:
    """One row per width."""
    for width in (8,) if options.quick else (40, 87, 200):
        case = f"{width} wide, 45 class pairs"
        if options.against is None:
            yield Row(case, "certify", "another checkout", remark="no checkout given")
            continue
        with ExitStack() as stack:
            own, rival = (
                stack.enter_context(elsewhere(label, source, _SUBJECT, "of_width", {"width": width}))
                for label, source in (("certify", OWN), (version_at(options.against), source_of(options.against)))
            )
            yield from contest(case, [own], [rival], Rules(seconds=0.5 if options.quick else 20.0))


CERTIFY = Benchmark(
    name="certify",
    title="Certificates",
    explained="`certify` of an untrained monotone network on images of 784 pixels, without inputs. Each version runs in a "
    "process of its own, on a new network each time. In place of errors stand the constants, which must not be "
    "larger.",
    errors=("constant", "sum over class pairs"),
    rows=rows,
)

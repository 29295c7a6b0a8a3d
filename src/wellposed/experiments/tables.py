"""The numbers of runs as rows: one place that decides what stands in every table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wellposed.certificates.order import must_be_ordered
from wellposed.errors import InputError
from wellposed.experiments.results import (
    Attacked,
    Certified,
    check_consistency,
    is_certified,
    read_attacked,
    read_certified,
)
from wellposed.training.config import read_config
from wellposed.training.folder import RunFolder


@dataclass(frozen=True)
class Row:
    """Accuracy at one radius, all on the same inputs.

    Attributes:
        radius: Euclidean, pixels in [0, 1]; of node features for graphs.
        clean: accuracy without perturbation.
        paper: certified by margin/(2L), or None without a certificate.
        certified: certified by the tightest rule that the certificate supports: class pairs, else margin/(√2 L).
        attacked: not broken by any attack tried, or None.
    """

    radius: float
    clean: float
    paper: float | None
    certified: float | None
    attacked: float | None


@dataclass(frozen=True)
class Summary:
    """All numbers of one run.

    Attributes:
        run: its folder.
        samples: number of test inputs behind the rows.
        inputs: what they are, ``"images"`` or ``"graphs"``.
        test_error: on all certified inputs; on the attacked ones, without a certificate.
        lipschitz: upper bound of the Lipschitz constant, or None without a certificate.
        lower_bound: proved lower bound of the Lipschitz constant, or None without a certificate.
        rows: one per radius.
        remarks: what a reader must know besides, in words; see `Certified`.
        tested: number of inputs behind ``test_error``; zero where that was not noted.
    """

    run: str
    samples: int
    inputs: str
    test_error: float
    lipschitz: float | None
    lower_bound: float | None
    rows: list[Row]
    remarks: Sequence[str] = ()
    tested: int = 0

    def __post_init__(self) -> None:
        must_be_ordered(self.lower_bound, self.lipschitz)


def summarise(run: Path, radii: Sequence[float]) -> Summary:
    """Read a run's results and check that certificates and attacks do not contradict each other.

    Raises:
        CheckpointError: the run is not certified yet.
        CertificateError: an attack broke a certificate.
    """
    attacked = read_attacked(run)
    config = RunFolder(run).config
    inputs = read_config(config).inputs if config.exists() else "images"
    if inputs == "vectors":
        raise InputError(
            f"{run}: estimates numbers, and has no accuracy; `wellposed certify {run}` says what is known of it"
        )
    if attacked is not None and not is_certified(run):  # perhaps nothing can be certified, as for a plain DEQ
        rows = [Row(radius, attacked.accuracy(0.0), None, None, attacked.accuracy(radius)) for radius in radii]
        count, wrong = len(attacked.distances), 1.0 - attacked.accuracy(0.0)
        return Summary(str(run), count, inputs, wrong, None, None, rows, attacked.remarks, count)
    certified = read_certified(run)
    samples = len(certified.best)
    if attacked is not None:
        check_consistency(certified, attacked)
        samples = min(samples, len(attacked.distances))
    rows = [_row(certified, attacked, radius, samples) for radius in radii]
    return Summary(
        str(run),
        samples,
        inputs,
        certified.test_error,
        certified.lipschitz,
        certified.lower_bound,
        rows,
        certified.remarks,
        len(certified.best),
    )


def _row(certified: Certified, attacked: Attacked | None, radius: float, samples: int) -> Row:
    if attacked is not None:
        attacked = replace(attacked, distances=attacked.distances[:samples])
    clean = 1.0 - certified.test_error if attacked is None else attacked.accuracy(0.0)
    return Row(
        radius,
        clean,
        certified.accuracy(radius, "paper", samples),
        certified.accuracy(radius, None, samples),
        None if attacked is None else attacked.accuracy(radius),
    )


def header(summary: Summary) -> str:
    """One line about a run."""
    said = "".join(f"; {remark}" for remark in summary.remarks)
    error = f"test error {100 * summary.test_error:.2f} %"
    error += f" on {summary.tested} {summary.inputs}" if summary.tested else ""
    if summary.lipschitz is None or summary.lower_bound is None:
        return f"{summary.run}: {error}, no certificate{said}"
    units = "pixel units" if summary.inputs == "images" else "units of node features"
    return (
        f"{summary.run}: {error}, Lipschitz constant at most {summary.lipschitz:.4g}, "
        f"at least {summary.lower_bound:.4g} ({units}, ratio {summary.lipschitz / max(summary.lower_bound, 1e-300):.3g})"
        + said
    )


def as_text(summary: Summary) -> str:
    """The table as aligned text."""
    lines = [
        header(summary),
        f"accuracy in % on the first {summary.samples} test {summary.inputs}",
        f"{'radius':>8} {'clean':>8} {'2L rule':>8} {'certified':>10} {'attacked':>9}",
    ]
    for row in summary.rows:
        paper, certified, attacked = (
            "–" if value is None else f"{100 * value:.2f}" for value in (row.paper, row.certified, row.attacked)
        )
        lines.append(f"{row.radius:8.3g} {100 * row.clean:8.2f} {paper:>8} {certified:>10} {attacked:>9}")
    return "\n".join(lines)

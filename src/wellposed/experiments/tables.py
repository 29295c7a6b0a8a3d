"""The numbers of runs as rows: one place that decides what stands in every table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wellposed.certificates.order import must_be_ordered
from wellposed.errors import CheckpointError, InputError
from wellposed.experiments.results import (
    NORMS,
    Attacked,
    Certified,
    check_consistency,
    in_norm,
    is_certified,
    left_out,
    read_attacked,
    read_certified,
)
from wellposed.numerics.shown import at_least, at_most
from wellposed.training.about import about_run
from wellposed.training.folder import RunFolder

_RULE = "paper"  # whose radii every certificate has


@dataclass(frozen=True)
class Row:
    """Accuracy at one radius, all on the same inputs.

    Attributes:
        radius: in the norm and the units of the summary.
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
        inputs: what they are, ``"images"``, ``"vectors"`` or ``"graphs"``.
        test_error: on all certified inputs; on the attacked ones, without a certificate.
        lipschitz: upper bound of the Lipschitz constant, or None without a certificate.
        lower_bound: proved lower bound of the Lipschitz constant, or None without a certificate.
        rows: one per radius.
        remarks: what a reader must know besides, in words; see `Certified`.
        tested: number of inputs behind ``test_error``; zero where that was not noted.
        units: of radii and constants, in words.
        warning: what a reader must know before all else, that nothing was learned; else empty. It is the first remark, too.
        norm: of perturbations.
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
    units: str = "pixel units"
    warning: str = ""
    norm: str = "2"

    def __post_init__(self) -> None:
        must_be_ordered(self.lower_bound, self.lipschitz)


def summarise(run: Path, radii: Sequence[float], norm: str = "2") -> Summary:
    """Read a run's results and check that certificates and attacks do not contradict each other.

    Args:
        run: the run folder.
        radii: of the rows.
        norm: of perturbations.

    Raises:
        CheckpointError: the run is not certified yet, or a file is corrupt.
        CertificateError: an attack broke a certificate.
    """
    attacked = read_attacked(run, norm)
    about = about_run(run)
    if not about.has_logits:
        raise InputError(
            f"{run}: estimates numbers, and has no accuracy; `wellposed certify {run}` says what is known of it"
        )
    if attacked is not None and not is_certified(run, norm):  # perhaps nothing can be certified, as for a plain DEQ
        rows = [Row(radius, attacked.accuracy(0.0), None, None, attacked.accuracy_tried(radius)) for radius in radii]
        count, wrong = len(attacked.distances), 1.0 - attacked.accuracy(0.0)
        said = [*attacked.remarks, *left_out(run, norm), *about.remarks]
        return Summary(
            str(run), count, about.inputs, wrong, None, None, rows, said, count, about.units, attacked.warning, norm
        )
    certified = read_certified(run, norm)
    if _RULE not in certified.radii:
        path = in_norm(RunFolder(run).certified, norm)
        raise CheckpointError(f"{path}: corrupt (radii lack those of {_RULE!r}); run `wellposed certify {run}` again")
    samples = len(certified.best)
    if attacked is not None:
        check_consistency(certified, attacked)
        samples = min(samples, len(attacked.distances))
    rows = [_row(certified, attacked, radius, samples) for radius in radii]
    said, warning = [*certified.remarks, *left_out(run, norm), *about.remarks], certified.warning
    if attacked is not None and attacked.warning and not warning:  # of fewer inputs, which are those of the rows
        warning = f"{attacked.warning} on the first {samples} {about.inputs}"
        said = [warning, *said]
    return Summary(
        str(run),
        samples,
        about.inputs,
        certified.test_error,
        certified.lipschitz,
        certified.lower_bound,
        rows,
        said,
        len(certified.best),
        about.units,
        warning,
        norm,
    )


def _row(certified: Certified, attacked: Attacked | None, radius: float, samples: int) -> Row:
    if attacked is not None:
        attacked = replace(attacked, distances=attacked.distances[:samples])
    clean = 1.0 - certified.test_error if attacked is None else attacked.accuracy(0.0)
    return Row(
        radius,
        clean,
        certified.accuracy(radius, _RULE, samples),
        certified.accuracy(radius, None, samples),
        None if attacked is None else attacked.accuracy_tried(radius),
    )


def header(summary: Summary) -> str:
    """One line about a run, which starts with what must be known before all else."""
    first = f"{summary.warning}; " if summary.warning else ""
    said = "".join(f"; {remark}" for remark in summary.remarks if remark != summary.warning)
    error = f"{first}test error {100 * summary.test_error:.2f} %"
    error += f" on {summary.tested} {summary.inputs}" if summary.tested else ""
    return f"{summary.run}: {error}, {constants(summary)}{said}"


def constants(summary: Summary) -> str:
    """What is known of a run's Lipschitz constant, in words."""
    if summary.lipschitz is None:
        units = "" if summary.inputs == "images" else f" ({summary.units})"
        return f"no certificate{units}"
    name = "Lipschitz constant" if summary.norm == "2" else f"{NORMS[summary.norm]} Lipschitz constant"
    if summary.lower_bound is None:
        return f"{name} at most {at_most(summary.lipschitz)} ({summary.units})"
    return f"{name} {between(summary.lower_bound, summary.lipschitz, summary.units)}"


def between(lower: float, upper: float, units: str) -> str:
    """Both bounds of a constant and their ratio, in words.

    Args:
        lower: proved lower bound.
        upper: proved upper bound.
        units: of the constant, in words.
    """
    most, least, apart = bounds(lower, upper)
    return f"at most {most}, at least {least} ({units}, ratio {apart})"


def bounds(lower: float, upper: float) -> tuple[str, str, str]:
    """Upper bound, lower bound and ratio of a constant as every table shows them.

    Args:
        lower: proved lower bound.
        upper: proved upper bound.
    """
    return at_most(upper), at_least(lower), f"{ratio(lower, upper):.3g}"


def ratio(lower: float, upper: float) -> float:
    """How far apart two bounds of a constant are: upper over lower, infinite where nothing is known from below."""
    if upper <= lower:
        return 1.0
    return upper / lower if lower > 0.0 else math.inf


COLUMNS = ("radius", "clean", "2L rule", "certified", "attacked")
_WIDTHS = (8, 8, 8, 10, 9)


def cells(row: Row) -> list[str]:
    """A row as every table shows it, see `COLUMNS`: the radius, and accuracies in % or a dash for what is not known."""
    return [f"{row.radius:.3g}", *map(percent, (row.clean, row.paper, row.certified, row.attacked))]


def percent(share: float | None) -> str:
    """A share as every table shows it: in %, or a dash for what is not known."""
    return "–" if share is None else f"{100 * share:.2f}"


def about_rows(summary: Summary) -> str:
    """What the rows of a table are about."""
    radii = f"radii are {NORMS[summary.norm]}, in {summary.units}"
    return f"accuracy in % on the first {summary.samples} test {summary.inputs}; {radii}"


def as_text(summary: Summary) -> str:
    """The table as aligned text."""
    rows = [COLUMNS, *(cells(row) for row in summary.rows)]
    aligned = [" ".join(cell.rjust(width) for cell, width in zip(row, _WIDTHS, strict=True)) for row in rows]
    return "\n".join([header(summary), about_rows(summary), *aligned])

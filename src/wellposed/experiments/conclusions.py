"""What a person should conclude of a run, in two sentences that its numbers decide."""

from __future__ import annotations

from wellposed.experiments.regression import SLOPE_UNITS, Estimate
from wellposed.experiments.results import NORMS
from wellposed.experiments.tables import Row, Summary, percent, ratio
from wellposed.numerics.shown import at_most

_CLOSE = 1.1  # bounds of a constant whose ratio is no more than this tell nearly the same
_LITTLE = 0.05  # a share of the inputs that is small


def conclusions(summary: Summary) -> tuple[str, str]:
    """What is proved and what is broken at one radius of the table, and what follows.

    The radius is the middle one or, where nothing is certified at it, the largest one at which something is.

    Args:
        summary: of a run that tells classes apart, with at least one row.
    """
    row = summary.rows[len(summary.rows) // 2]
    if row.certified == 0.0:
        row = max((one for one in summary.rows if one.certified), key=lambda one: one.radius, default=row)
    where = f"up to the {NORMS[summary.norm]} radius {row.radius:.3g} ({summary.units})"
    return f"Of the first {summary.samples} test {summary.inputs}, {_found(row, where)}.", f"{_meaning(summary, row)}."


def _found(row: Row, where: str) -> str:
    """Shares of the inputs, which add up to all of them."""
    clean, certified, attacked = row.clean, row.certified, row.attacked
    wrong = f"{percent(1.0 - clean)} % are misclassified without any change"
    if certified is None:
        broken = None if attacked is None else clean - attacked
        return f"{percent(attacked)} % withstood every attack {where}, {percent(broken)} % were broken, and {wrong}"
    proved = f"{percent(certified)} % are proved to keep their correct class under every change {where}"
    if attacked is None:
        return f"{proved}; {percent(clean - certified)} % are not proved, and {wrong}"
    return f"{proved}; attacks broke {percent(clean - attacked)} %, {percent(attacked - certified)} % remain open, and {wrong}"


def _meaning(summary: Summary, row: Row) -> str:
    if summary.warning:
        return f"None of this speaks for the network, since {summary.warning}"
    if row.certified is None:
        return "Nothing is proved of what withstood, since a stronger attack may succeed where these failed"
    if row.attacked is None:
        return f"How much of the rest can be broken is not known until the run is attacked, and {_constant(summary)}"
    left = row.attacked - row.certified
    if left <= _LITTLE:
        return f"Certificate and attacks leave {percent(left)} % undecided, so that little is to be gained by a better proof"
    return f"The certificate leaves {percent(left)} % undecided, and {_constant(summary)}"


def _constant(summary: Summary) -> str:
    """What the two bounds of the Lipschitz constant say about the proof."""
    if summary.lipschitz is None or summary.lower_bound is None:
        return "nothing bounds the Lipschitz constant from below"
    apart = ratio(summary.lower_bound, summary.lipschitz)
    if apart <= _CLOSE:
        return (
            f"the Lipschitz constant is known to within {percent(apart - 1.0)} %, so that only proofs for single "
            f"{summary.inputs} can certify more of this network"
        )
    return f"the Lipschitz constant is known to a factor of {apart:.3g} only: the network may be better than its certificate"


def conclusions_on_estimates(found: Estimate) -> tuple[str, str]:
    """How close the estimates are and how steep they may be, in words.

    Args:
        found: of a run by regression.
    """
    first = f"On {found.samples} test inputs the estimates are {found.error:.4g} off (root mean square, unit of the targets)"
    if found.mean_error is not None and found.mean_error > 0.0:
        explained = 1.0 - (found.error / found.mean_error) ** 2
        first += f", and explain {percent(max(explained, 0.0))} % of the targets' variance"
    if found.warning:
        return f"{first}.", f"None of this speaks for the network, since {found.warning}."
    apart = ratio(found.lower_bound, found.slope)
    known = f"to within {percent(apart - 1.0)} %" if apart <= _CLOSE else f"to a factor of {apart:.3g}"
    return (
        f"{first}.",
        f"No estimate moves by more than {at_most(found.slope)} times what its input moves ({SLOPE_UNITS}, {NORMS[found.norm]} "
        f"norm), which is proved for all inputs, and the least such number is known {known}.",
    )

"""A comparison: the tolerances at which ours is as exact as a rival, times in turns, and the row of the table."""

from __future__ import annotations

import bisect
import functools
import itertools
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

from wellposed.benchmarking.contestant import Contestant
from wellposed.benchmarking.row import Row
from wellposed.errors import NotConvergedWarning

P = ParamSpec("P")
R = TypeVar("R")

# Tolerances from loose to fine, six a decade.
LADDER = tuple(10.0 ** (-1.0 - rung / 6.0) for rung in range(38))
_ROUNDING = 1.0 + 1e-9


def silent(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator for what tries tolerances that cannot be reached: a solve that does not converge shows in its errors."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotConvergedWarning)
            return function(*args, **kwargs)

    return wrapper


@dataclass(frozen=True)
class Rules:
    """How a comparison is made.

    Attributes:
        tolerances: number of tolerances of a run; the errors are divided among these, in order.
        target: the largest error for which a rival's tolerances count.
        seconds: CPU time to spend on the turns of one case.
        turns: the least number of turns.
    """

    tolerances: int = 0
    target: float = 1e-4
    seconds: float = 10.0
    turns: int = 5


@dataclass
class _Entry:
    """A contestant with the tolerances that it runs at."""

    contestant: Contestant
    tolerances: tuple[float, ...]
    errors: tuple[float, ...] = ()
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.errors = tuple(self.contestant.errors(self.tolerances))


@silent
def contest(case: str, ours: Sequence[Contestant], rivals: Sequence[Contestant], rules: Rules) -> list[Row]:
    """Compare each of ours with each rival; all take turns, so that what else the machine does meets all of them.

    Args:
        case: name of what is computed.
        ours: this library's ways to compute it.
        rivals: the others.
        rules: of the comparison.

    Returns:
        One row per pair. Where a rival's errors cannot be brought below the target the row says so; where ours cannot be brought
        below the rival's, both run at the best tolerances that there are, and the row says that ours is less exact.
    """
    rows: list[Row] = []
    pairs: list[tuple[_Entry, _Entry]] = []
    for rival in rivals:
        if rival.missing:
            rows += [Row(case, own.name, rival.name, remark=rival.missing) for own in ours]
            continue
        chosen = loosest(rival.errors, None, rules)
        if chosen is None:
            rows += [Row(case, own.name, rival.name, remark=f"errors above {rules.target:g}") for own in ours]
            continue
        theirs = _Entry(rival, chosen)
        for own in ours:
            fitting = loosest(own.errors, theirs.errors, rules)
            pairs.append((_Entry(own, chosen if fitting is None else fitting), theirs))
    _take_turns(pairs, rules)
    return rows + [_row(case, *pair) for pair in pairs]


def loosest(
    errors: Callable[[Sequence[float]], Sequence[float]], goal: Sequence[float] | None, rules: Rules
) -> tuple[float, ...] | None:
    """The loosest tolerances of the ladder with which no error is above its goal, one after the other, by bisection.

    Args:
        errors: at given tolerances.
        goal: for every error; None for the target.
        rules: of the comparison.

    Returns:
        The tolerances, or None where the ladder has none.
    """
    chosen: tuple[float, ...] = ()
    for place in range(rules.tolerances):
        rest = (rules.target,) * (rules.tolerances - place - 1)

        def reached(rung: float, chosen: tuple[float, ...] = chosen, rest: tuple[float, ...] = rest) -> bool:
            found = errors((*chosen, rung, *rest))
            seen = len(found) * (len(chosen) + 1) // rules.tolerances
            limits = (rules.target,) * len(found) if goal is None else goal
            return no_worse(found[:seen], limits[:seen])

        rung = bisect.bisect_left(LADDER, True, key=reached)
        if rung == len(LADDER):
            return None
        chosen = (*chosen, LADDER[rung])
    return chosen


def no_worse(errors: Sequence[float], goal: Sequence[float]) -> bool:
    """Whether no error is above its goal, up to the rounding of float64."""
    return all(error <= limit * _ROUNDING for error, limit in zip(errors, goal, strict=True))


def _take_turns(pairs: Sequence[tuple[_Entry, _Entry]], rules: Rules) -> None:
    entries = list({id(entry): entry for entry in itertools.chain.from_iterable(pairs)}.values())
    for entry in entries:
        entry.contestant.seconds(entry.tolerances)  # what is done once
    start, spent, turn = time.monotonic(), 0.0, 0
    while entries and (turn < rules.turns or (spent < rules.seconds and time.monotonic() - start < 3 * rules.seconds)):
        for entry in entries if turn % 2 == 0 else reversed(entries):
            entry.seconds.append(entry.contestant.seconds(entry.tolerances))
        spent += sum(entry.seconds[-1] for entry in entries)
        turn += 1


def _row(case: str, ours: _Entry, theirs: _Entry) -> Row:
    ratios = [own / other for own, other in zip(ours.seconds, theirs.seconds, strict=True)]
    return Row(
        case, ours.contestant.name, theirs.contestant.name, ratio=statistics.median(ratios), spread=_quartiles(ratios),
        milliseconds=(1e3 * statistics.median(ours.seconds), 1e3 * statistics.median(theirs.seconds)), turns=len(ratios),
        errors=(ours.errors, theirs.errors), as_exact=no_worse(ours.errors, theirs.errors),
    )  # fmt: skip


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    first, _, last = statistics.quantiles(values, n=4, method="inclusive")
    return first, last

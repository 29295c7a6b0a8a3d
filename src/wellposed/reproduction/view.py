"""What a recipe shows of its records: tables of quantities beside published values, and curves; data only, drawn elsewhere."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

Better = Literal["lower", "higher", "equal"]


@dataclass(frozen=True)
class Published:
    """A number that a paper states.

    Attributes:
        value: the number, in the unit of the quantity that it is compared with.
        source: where it stands: paper, table or figure.
        tolerance: how far a measured mean may be from it and still count as the same, in the same unit; at least half of the last
            digit that was printed.
        incomparable: why the two must not be compared, as a clause that follows "because"; empty where they may.
        upto: the greatest value of a range that the paper states, whose least is ``value``; None of a single number.
    """

    value: float
    source: str
    tolerance: float
    incomparable: str = ""
    upto: float | None = None

    @property
    def greatest(self) -> float:
        """The greatest published value."""
        return self.value if self.upto is None else self.upto

    def __str__(self) -> str:
        if self.upto is not None:
            return f"{self.value:g} to {self.upto:g} (± {self.tolerance:g})"
        printed = f"{self.value:g}"
        digits = len(printed.partition(".")[2])
        return (
            printed if "e" in printed or self.tolerance <= 0.51 * 10.0**-digits else f"{printed} ± {self.tolerance:g}"
        )

    def beyond(self, value: float) -> float:
        """By how much a value is above the published ones, or negative, below."""
        return max(value - self.greatest, 0.0) + min(value - self.value, 0.0)


@dataclass(frozen=True)
class Quantity:
    """One number of one setting: measured by several seeds, and perhaps published.

    Attributes:
        setting: which network, such as ``"h = 40, m = 20"``.
        name: what is measured, with its unit.
        values: one per seed; empty where nothing was measured.
        better: which direction is better, or ``"equal"`` where neither is.
        published: the paper's value, or None.
        remark: what a reader must know besides, or why the value deviates; a sentence.
    """

    setting: str
    name: str
    values: Sequence[float]
    better: Better
    published: Published | None = None
    remark: str = ""

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float:
        """Standard deviation over seeds; zero of a single one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0

    @property
    def verdict(self) -> str:
        """How the measured mean compares with the published value, in words."""
        if self.published is None:
            return ""
        if not self.values:
            return "not run"
        if self.published.incomparable:
            return f"not comparable because {self.published.incomparable}"
        difference = self.published.beyond(self.mean)
        if not self.deviates:
            return "reproduced"
        if self.better == "equal" or math.isnan(difference):
            return "not reached"
        return "better" if (difference < 0) == (self.better == "lower") else "not reached"

    def at(self, value: float) -> Quantity:
        """The same quantity, had this value been measured."""
        return replace(self, values=[value])

    @property
    def deviates(self) -> bool:
        """Whether the measured mean is further from the published value than its spread and the value's precision."""
        if self.published is None or not self.values:
            return False
        return not abs(self.published.beyond(self.mean)) <= max(self.published.tolerance, self.spread)


@dataclass(frozen=True)
class Table:
    """Quantities under a title.

    Attributes:
        title: what they are.
        quantities: the rows.
    """

    title: str
    quantities: Sequence[Quantity]

    @property
    def figures(self) -> tuple[Figure, ...]:
        """What is to be drawn: nothing."""
        return ()

    def with_rows(self, change: Callable[[Quantity], Quantity]) -> Table:
        """The same table with every row changed."""
        return Table(self.title, [change(row) for row in self.quantities])


@dataclass(frozen=True)
class Series:
    """One curve of a figure.

    Attributes:
        label: in the legend.
        x: abscissae.
        y: means.
        spread: standard deviations, one per point; of what is published half of its range; empty for none.
        published: whether these are a paper's numbers, which are drawn as hollow marks, or with a spread as a hollow band.
        joined: whether a line goes through the points; else each is a mark of its own.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    spread: Sequence[float] = ()
    published: bool = False
    joined: bool = True


def published_points(label: str, known: Mapping[float, Published | None]) -> list[Series]:
    """What a paper states of the curve of a label, by the abscissa; nothing where it states none."""
    points = {x: published.value for x, published in known.items() if published is not None and published.upto is None}
    return [Series(label, list(points), list(points.values()), published=True)] if points else []


def published_range(label: str, x: Sequence[float], published: Published) -> Series:
    """A range that a paper states for all abscissae of the curve of a label, or the precision of a single number."""
    middle, half = (published.value + published.greatest) / 2, (published.greatest - published.value) / 2
    ends = [min(x), max(x)]
    return Series(label, ends, [middle] * 2, [half or published.tolerance] * 2, published=True)


@dataclass(frozen=True)
class Figure:
    """Curves with one sentence on what they show.

    Attributes:
        name: of the files, without ending.
        sentence: what the figure shows.
        x: label of the abscissa, with its unit.
        y: label of the ordinate, with its unit.
        series: the curves.
        logarithmic: whether the ordinate is logarithmic.
        logarithmic_x: whether the abscissa is.
        upto: greatest ordinate that is shown, of curves that go on beyond it, which the sentence says; None for all.
    """

    name: str
    sentence: str
    x: str
    y: str
    series: Sequence[Series]
    logarithmic: bool = False
    logarithmic_x: bool = False
    upto: float | None = None

    @property
    def figures(self) -> tuple[Figure, ...]:
        """What is to be drawn: this."""
        return (self,)

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """Rows of tables: none."""
        return ()

    def with_rows(self, change: Callable[[Quantity], Quantity]) -> Figure:
        """This figure, which has no rows to change."""
        return self


View = Sequence[Table | Figure]


def figures_of(view: View) -> list[Figure]:
    """The figures among the parts of a view."""
    return [figure for part in view for figure in part.figures]

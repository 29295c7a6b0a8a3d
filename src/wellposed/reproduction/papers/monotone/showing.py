"""What the recipes of this paper share in showing their records."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from wellposed.reproduction.cell import Record
from wellposed.reproduction.networks import learned_nothing
from wellposed.reproduction.view import Better, Published, Quantity, Series

UNKNOWN_TRAINING = "the paper's training is not published, and constants depend on it"
SEEDS = (0, 1, 2)
_Key = TypeVar("_Key")


def neither_published(steps: Sequence[float], logarithms: Sequence[float]) -> str:
    """Why a published bound of unrolled iterations must not be compared with ours over some steps α, as a clause."""
    said = "neither the paper's weights nor its steps α are published"
    if not logarithms:
        return said
    extent = f"from {min(logarithms):.3g} to {max(logarithms):.3g}"
    return f"{said}: over ours, from {min(steps):.2g} to {max(steps):.2g}, its logarithm goes {extent}"


def grouped(records: Sequence[Record], key: Callable[[Record], _Key]) -> dict[_Key, list[Record]]:
    """Records by a key, in the order of their first."""
    found: dict[_Key, list[Record]] = {}
    for record in records:
        found.setdefault(key(record), []).append(record)
    return found


def family_of(record: Record) -> Any:
    """The options of the family of a record's network."""
    return record.settings["config"]["family"]


def remark_on(group: Sequence[Record]) -> str:
    """What a reader must know of the networks of a group, such as that one has learned nothing."""
    return " ".join(sorted({learned_nothing(record.measured) for record in group} - {""}))


def quantity(
    group: Sequence[Record], setting: str, name: str, value: Callable[[dict[str, Any]], float], better: Better = "lower",
    published: Published | None = None, remark: str = "",
) -> Quantity:  # fmt: skip
    """A quantity of a group of records, one value for each seed.

    Args:
        group: the records.
        setting: of them.
        name: of the quantity, with its unit.
        value: of what was measured.
        better: see `Quantity`.
        published: see `Quantity`.
        remark: in front of what `remark_on` says.
    """
    said = " ".join(part for part in (remark, remark_on(group)) if part)
    return Quantity(setting, name, [value(record.measured) for record in group], better, published, said)


def curve(label: str, groups: Mapping[float, Sequence[Record]], value: Callable[[dict[str, Any]], float]) -> Series:
    """Means and spreads over seeds of a value, over the keys of groups."""
    points = [quantity(group, "", "", value) for group in groups.values()]
    return Series(label, list(groups), [point.mean for point in points], [point.spread for point in points])


def mean_curve(label: str, x: Sequence[float], curves: Sequence[Sequence[float]]) -> Series:
    """The mean of curves over the same abscissae, one for each seed, with their spread."""
    points = list(zip(*curves, strict=True))
    spread = [statistics.stdev(point) if len(point) > 1 else 0.0 for point in points]
    return Series(label, list(x), [statistics.fmean(point) for point in points], spread)

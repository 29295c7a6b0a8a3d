"""Figures 3 and 8: what is shown of the networks that are trained to a margin."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from wellposed.reproduction.cell import Cell, Record
from wellposed.reproduction.measurements import of_task
from wellposed.reproduction.papers.monotone.margins import (
    VERSIONS_OF_THEOREM_3,
    explicit_to_margin,
    monotone_to_margin,
)  # fmt: skip
from wellposed.reproduction.papers.monotone.showing import SEEDS, curve, grouped, neither_published, quantity
from wellposed.reproduction.view import (
    Figure,
    Published,
    Quantity,
    Series,
    Table,
    View,
    published_points,
    published_range,
)  # fmt: skip

DEPTHS = (3, 4, 5, 6, 7, 8, 10, 12, 14)
MONOTONICITIES = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
STEPS = tuple(2.0**-k for k in range(10, 0, -2))
_M_IN_FIGURE_8 = 1.0
GAMMA = 10.0  # the margin to train to, and of the bounds
_SLIP = "the notebook that it comes from has a wrong sign, and its training is not published"
PUBLISHED = {20.0: Published(4.3733, "notebook of the paper, 23623.23", 0.0005, _SLIP)}
EXPLICIT_ENDS = {
    3.0: Published(4.0, "Section 5.2", 0.5),
    14.0: Published(8.0, "Section 5.2", 0.5),
}  # orders of magnitude
MONOTONE = Published(4.0, "Section 5.2, all m", 0.5, upto=6.0)
UNROLLED = Published(6.0, "Appendix G, order of magnitude", 0.5)
ERRORS = Published(6.0, "axes of Fig. 8", 0.25, "their range is read off an axis", 7.5)
_NOT_REACHED = "The margin was not reached in time."


def explicit_cells(quick: bool) -> list[Cell]:
    """Explicit networks of every depth and seed."""
    depths, seeds = ((3, 6), (0,)) if quick else (DEPTHS, SEEDS)
    return [
        Cell(explicit_to_margin, {"depth": depth, **extent(quick), "seed": seed}) for depth in depths for seed in seeds
    ]


def monotone_cells(quick: bool) -> list[Cell]:
    """Monotone networks of every m and seed."""
    monotonicities, seeds, steps = ((1.0, 20.0), (0,), STEPS[:2]) if quick else (MONOTONICITIES, SEEDS, STEPS)
    return [
        Cell(monotone_to_margin, {"m": m, **extent(quick), "seed": seed, "steps": list(steps)})
        for m in monotonicities for seed in seeds
    ]  # fmt: skip


def extent(quick: bool) -> dict[str, Any]:
    """How wide networks are, how much they are trained on, until which margin, and for how long at most."""
    few = {"samples": 512, "gamma": 2.0, "epochs": 200}
    return {"width": 40, **(few if quick else {"samples": 4096, "gamma": GAMMA, "epochs": 1000})}


def _remark(group: Sequence[Record]) -> str:
    return "" if all(record.measured["reached"] for record in group) else _NOT_REACHED


def _log10(version: str) -> Callable[[dict[str, Any]], float]:
    return lambda measured: float(measured["log10"][version])


def _test_error(measured: dict[str, Any]) -> float:
    return float(measured["test_error"])


def _bounds(
    name: str,
    what: str,
    x: str,
    setting: Callable[[float], str],
    groups: Mapping[float, Sequence[Record]],
    sentence: str,
) -> View:
    """Bounds by version over the depth or over m."""
    versions = list(next(iter(groups.values()))[0].measured["log10"])
    rows = []
    for key, group in groups.items():
        for version in versions:
            published = _published(x, key) if version == "published" else None
            words = f"log₁₀ of the bound, {version}"
            rows.append(quantity(group, setting(key), words, _log10(version), "lower", published, _remark(group)))
        rows.append(quantity(group, setting(key), "epochs", lambda measured: measured["epochs"]))
    lines = [curve(f"{version} version", groups, _log10(version)) for version in versions]
    known = {key: found for key in groups if (found := _published(x, key)) is not None}
    for source in dict.fromkeys(found.source for found in known.values()):
        of_source = {key: found for key, found in known.items() if found.source == source}
        lines += published_points(source, of_source)
        lines += [published_range(source, list(groups), MONOTONE)] if MONOTONE in of_source.values() else []
    return [Table(what, rows), Figure(name, sentence, x, "log₁₀ of the bound", lines)]


def _published(x: str, key: float) -> Published | None:
    """What the paper says of its own bound of a network, by its depth or its m."""
    return EXPLICIT_ENDS.get(key) if x == "depth" else PUBLISHED.get(key, MONOTONE)


def _vacuous(records: Sequence[Record]) -> str:
    """How many bounds of a risk are above one, whose logarithm is zero."""
    values = [value for record in records for value in record.measured["log10"].values()]
    above = sum(value > 0.0 for value in values)
    return f"{above} of {len(values)} are above one (zero here), which say nothing but how they grow"


def explicit_bounds(records: Sequence[Record]) -> View:
    """Bounds of Neyshabur et al. over the depth."""
    sentence = (
        "PAC-Bayes bounds of explicit networks without biases over their depth: as published, and with the noise of the first "
        f"layer counted in full; {_vacuous(records)}."
    )
    groups = grouped(records, lambda record: float(record.settings["depth"]))
    return _bounds("monotone-fig3a", "Explicit networks", "depth", lambda depth: f"d = {depth:g}", groups, sentence)


def monotone_bounds(records: Sequence[Record]) -> View:
    """Versions of Theorem 3 over m."""
    sentence = (
        f"PAC-Bayes bounds of monotone networks over m by Theorem 3: {', '.join(VERSIONS_OF_THEOREM_3)}; "
        f"{_vacuous(records)}."
    )
    groups = grouped(records, lambda record: float(record.settings["m"]))
    return _bounds("monotone-fig3b", "Monotone networks", "m", lambda m: f"m = {m:g}", groups, sentence)


def figure_8_cells(quick: bool) -> list[Cell]:
    """The networks of Figure 3."""
    return [*explicit_cells(quick), *monotone_cells(quick)]


def figure_8(records: Sequence[Record]) -> View:
    """Test errors of both kinds, and bounds of unrolled iterations."""
    explicit = grouped(of_task(records, explicit_to_margin), lambda record: float(record.settings["depth"]))
    monotone = grouped(of_task(records, monotone_to_margin), lambda record: float(record.settings["m"]))
    rows = [
        quantity(group, f"{letter} = {key:g}", "test error, %", _test_error, "lower", ERRORS, _remark(group))
        for letter, groups in (("d", explicit), ("m", monotone)) for key, group in groups.items()
    ]  # fmt: skip
    errors = "Test errors of {} that were trained on the same few samples until the same margin."
    return [
        Table("Test errors", rows),
        Figure(
            "monotone-fig8a", errors.format("explicit networks"), "depth", "test error, %",
            [curve("explicit", explicit, _test_error), *_axis_of_errors(explicit)],
        ),
        Figure(
            "monotone-fig8b", errors.format("monotone networks"), "m", "test error, %",
            [curve("monotone", monotone, _test_error), *_axis_of_errors(monotone)],
        ),
        *(_unrolled(monotone[_M_IN_FIGURE_8]) if _M_IN_FIGURE_8 in monotone else ()),
    ]  # fmt: skip


def _axis_of_errors(groups: Mapping[float, Sequence[Record]]) -> list[Series]:
    return [published_range("the figure's axis", list(groups), ERRORS)] if groups else []


def _unrolled(group: Sequence[Record]) -> View:
    """Figure 8c: bounds of the unrolled iterations over α, beside Theorem 3 of the same network."""
    steps = group[0].settings["steps"]
    columns = list(zip(*(record.measured["unrolled_log10"] for record in group), strict=True))
    means = [statistics.fmean(column) for column in columns if None not in column]
    published = replace(UNROLLED, incomparable=neither_published(steps, means))
    rows = []
    for step, column in zip(steps, columns, strict=True):
        values = list(column)
        settled = None not in values
        remark = "" if settled else "The iterations do not settle."
        shown = values if settled else []
        rows.append(Quantity(f"α = {step:g}", "log₁₀ of the bound, unrolled", shown, "lower", published, remark))
    points = [(step, row) for step, row in zip(steps, rows, strict=True) if row.values]
    x, y, spread = [step for step, _ in points], [row.mean for _, row in points], [row.spread for _, row in points]
    lines = [Series("unrolled", x, y, spread), *published_points("unrolled", dict.fromkeys(steps, UNROLLED))]
    lines.append(curve("Theorem 3 as published", dict.fromkeys(steps, group), _log10(VERSIONS_OF_THEOREM_3[0])))
    sentence = (
        f"PAC-Bayes bounds of unrolled forward–backward iterations over the step α, for m = {_M_IN_FIGURE_8:g}, beside that of "
        f"the layer itself by Theorem 3, {lines[-1].y[0]:.2g}; the former leave biases out."
    )
    picture = Figure("monotone-fig8c", sentence, "α", "log₁₀ of the bound", lines, logarithmic_x=True)
    return [Table("Bounds of unrolled iterations", rows), picture]

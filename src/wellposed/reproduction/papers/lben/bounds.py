"""MNIST: test error against the Lipschitz constant, of networks that differ in γ, and of networks that differ in width."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

from wellposed.reproduction.cell import Cell, Record
from wellposed.reproduction.measurements import by_seed, image_classifier
from wellposed.reproduction.networks import learned_nothing
from wellposed.reproduction.papers.lben.networks import LIMIT_QUICK, MONDEQ, RADII, SEEDS, label, label_of, settings
from wellposed.reproduction.view import Figure, Published, Quantity, Series, Table, View

SOURCE = "the authors' result files"
_OTHER_WEIGHTS = "nothing bounds this network in training, so that its constant is one of the training, which differs"
GAMMAS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.8, 1.0, 5.0, 50.0)
WIDTHS = (20, 50, 80, 110, 140, 250)
SLOW_WIDTH = 140  # from which on there is one seed

# Test error in %, and the lower bound of the constant per normalised pixel that the authors' ascent found.
PUBLISHED: dict[str, tuple[float | None, float]] = {
    "γ = 0.1": (10.12, 0.0412), "γ = 0.2": (7.41, 0.1842), "γ = 0.3": (5.44, 0.2825), "γ = 0.4": (4.40, 0.3715),
    "γ = 0.5": (3.52, 0.4579), "γ = 0.8": (2.59, 0.7152), "γ = 1": (2.36, 0.8648), "γ = 5": (1.81, 2.9123),
    "γ = 50": (None, 11.75), "γ = ∞": (2.03, 9.800), "monDEQ": (2.04, 7.752),
}  # fmt: skip
PUBLISHED_WIDTHS: dict[str, tuple[float | None, float]] = {
    "n = 20": (4.85, 0.862), "n = 50": (3.10, 0.680), "n = 80": (2.33, 0.825), "n = 110": (2.12, 0.811),
    "n = 140": (1.97, 0.814), "n = 250": (1.62, 0.810),
}  # fmt: skip


def bound_cells(quick: bool) -> list[Cell]:
    """Networks of every γ, without a bound, and monotone ones."""
    kinds, seeds = ((1.0, MONDEQ), (0,)) if quick else ((*GAMMAS, 0.0, MONDEQ), SEEDS)
    return [_cell(settings(kind, seed=seed, quick=quick), quick) for kind in kinds for seed in seeds]


def width_cells(quick: bool) -> list[Cell]:
    """Networks of every width with γ = 1."""
    return [
        _cell(settings(1.0, seed=seed, quick=quick, width=width), quick)
        for width in ((10, 20) if quick else WIDTHS)
        for seed in (SEEDS if width < SLOW_WIDTH and not quick else SEEDS[:1])
    ]


def _cell(config: dict[str, object], quick: bool) -> Cell:
    return Cell(image_classifier, {"config": config, "radii": RADII, "limit": LIMIT_QUICK if quick else None})


def quantities_of(
    group: Sequence[Record], setting: str, published: tuple[float | None, float] | None
) -> list[Quantity]:
    """The rows of one network: its error, its certified constant, and how much of it is proved to be attained.

    Args:
        group: its records, one for each seed.
        setting: what to call it.
        published: its error in % and its lower bound, where they are known.
    """
    remark = " ".join(sorted({learned_nothing(record.measured) for record in group} - {""}))
    error, lowest = published or (None, None)
    gamma = group[0].settings["config"]["family"].get("gamma", 0.0)
    upper, lower = (
        [record.measured[key] * record.measured["deviation"] for record in group]
        for key in ("lipschitz", "lower_bound")
    )
    known = None if error is None else Published(error, SOURCE, 0.005)
    rows = [
        Quantity(setting, "test error, %", [r.measured["test_error"] for r in group], "lower", known, remark),
        Quantity(setting, "constant per normalised pixel, at most", upper, "lower"),
    ]
    rows.append(lower_bound_of(setting, gamma, lower, lowest))
    tightness = [100.0 * low / high for low, high in zip(lower, upper, strict=True)]
    rows.append(Quantity(setting, "constant, lower bound in % of the upper bound", tightness, "higher"))
    return rows


def lower_bound_of(setting: str, gamma: float, lower: Sequence[float], known: float | None) -> Quantity:
    """How large a constant is at least, and how much that is of a prescribed one.

    Args:
        setting: what to call the network.
        gamma: its prescribed constant; zero for none.
        lower: lower bounds of it, one for each seed.
        known: the published one.
    """
    if not gamma:
        unbound = None if known is None else Published(known, SOURCE, 0.0005, _OTHER_WEIGHTS)
        return Quantity(setting, "constant per normalised pixel, at least", lower, "equal", unbound)
    share = None if known is None else Published(100.0 * known / gamma, SOURCE, 0.05)
    return Quantity(
        setting, "constant, lower bound in % of γ", [100.0 * value / gamma for value in lower], "higher", share
    )


def bounds(records: Sequence[Record]) -> View:
    """Error and constants over γ."""
    groups = {label(group[0].settings["config"]): group for group in by_seed(records)}
    table = [row for name, group in groups.items() for row in quantities_of(group, name, PUBLISHED.get(name))]
    sentence = (
        "Test error of dense networks on MNIST against their Lipschitz constant: each network lies between its proved lower "
        "bound and its certified constant; the line is over γ, networks without a prescribed constant are marks of their own."
    )
    series = against_constants(records, label_of, PUBLISHED)
    picture = Figure(
        "lben-bounds", sentence, "Lipschitz constant per normalised pixel", "test error, %", series, True, True
    )
    return [Table("Error and Lipschitz constant by γ", table), picture]


def against_constants(
    records: Sequence[Record], name: Callable[[Record], str], known: Mapping[str, tuple[float | None, float]]
) -> list[Series]:
    """Errors over certified constants and lower bounds, per normalised pixel: a curve over γ, and other networks as marks.

    Args:
        records: of networks with constants, the seeds of a network one after the other.
        name: what tables call a record's network.
        known: published error in % and lower bound of the constant per normalised pixel, by the names of networks.
    """
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(name(record), []).append(record)
    curves: dict[tuple[str, bool], list[str]] = {}
    for of, group in groups.items():
        prescribed = bool(group[0].settings["config"]["family"].get("gamma"))
        curves.setdefault((of.partition("γ")[0] if prescribed else f"{of}, ", prescribed), []).append(of)
    series = []
    for (prefix, is_curve), joined in curves.items():
        errors = [[record.measured["test_error"] for record in groups[of]] for of in joined]
        for key, words in (("lipschitz", "certified constant"), ("lower_bound", "lower bound")):
            x = [
                statistics.fmean(record.measured[key] * record.measured["deviation"] for record in groups[of])
                for of in joined
            ]
            spread = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in errors]
            series.append(Series(prefix + words, x, list(map(statistics.fmean, errors)), spread, joined=is_curve))
        pairs = [(low, error) for error, low in (known[of] for of in joined if of in known) if error is not None]
        if pairs:
            x, y = ([pair[place] for pair in pairs] for place in range(2))
            series.append(Series(f"{prefix}lower bound", x, y, published=True, joined=is_curve))
    return series


def widths(records: Sequence[Record]) -> View:
    """Error and constants over the width at γ = 1."""
    groups = by_seed(records)
    names = [f"n = {group[0].settings['config']['family']['width']}" for group in groups]
    table = [
        row
        for name, group in zip(names, groups, strict=True)
        for row in quantities_of(group, name, PUBLISHED_WIDTHS.get(name))
    ]
    errors = [row for row in table if row.name == "test error, %"]
    x = [float(name.removeprefix("n = ")) for name in names]
    series = [Series("γ = 1", x, [row.mean for row in errors], [row.spread for row in errors])]
    known = [(size, PUBLISHED_WIDTHS[name][0]) for size, name in zip(x, names, strict=True) if name in PUBLISHED_WIDTHS]
    series.append(
        Series("γ = 1", [size for size, _ in known], [float(e) for _, e in known if e is not None], published=True)
    )
    constants = [record.measured["lipschitz"] * record.measured["deviation"] for record in records]
    sentence = (
        f"Test error of networks with γ = 1 on MNIST over their width; certified constants from {min(constants):.4g} to "
        f"{max(constants):.4g} per normalised pixel."
    )
    return [
        Table("Error and Lipschitz constant by width, γ = 1", table),
        Figure("lben-widths", sentence, "width of the state", "test error, %", series),
    ]

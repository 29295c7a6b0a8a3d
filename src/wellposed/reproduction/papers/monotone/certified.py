"""Figure 4a: certified accuracy of explicit and monotone networks."""

from __future__ import annotations

from collections.abc import Sequence

from wellposed.reproduction.cell import Cell, Record
from wellposed.reproduction.measurements import of_task
from wellposed.reproduction.networks import settings_of
from wellposed.reproduction.papers.monotone.deep import (
    attacked_deep_network,
    deep_cell,
    deep_config,
    deep_network,
    depth_of,
    setting_of,
)
from wellposed.reproduction.papers.monotone.dense import RADII, dense_cell, dense_config, dense_network
from wellposed.reproduction.papers.monotone.showing import (
    SEEDS,
    family_of,
    grouped,
    mean_curve,
    quantity,
    remark_on,
)  # fmt: skip
from wellposed.reproduction.strongest import attacked_classifier, pressed, same_images
from wellposed.reproduction.view import Figure, Published, Quantity, Series, Table, View, published_points

DEPTHS = (3, 4, 5, 6, 7, 8)
MONOTONICITIES = (0.1, 20.0)
IN_TABLE = (0, 4, 9)  # places of radii; the figure has all
RULES = {"paper": "margin/(2L)", "sqrt2": "margin/(√2 L)", "pairs": "class pairs"}
_TEXT = "Section 5.3"
PUBLISHED = {"d = 3": Published(4.0, _TEXT, 0.5), "m = 20": Published(51.0, _TEXT, 0.5)}  # at the last radius


def cells(quick: bool) -> list[Cell]:
    """Explicit networks of Figure 1a and monotone ones of Figure 1b, whose records they share; one of each under all attacks."""
    depths, monotonicities, seeds = ((3, 6), (20.0,), (0,)) if quick else (DEPTHS, MONOTONICITIES, SEEDS)
    radii = [RADII[place] for place in IN_TABLE]
    return [
        *(deep_cell(depth, seed, quick=quick) for depth in depths for seed in seeds),
        *(dense_cell(40, m, seed, quick=quick) for m in monotonicities for seed in seeds),
        *(
            pressed(attacked_deep_network, settings_of(deep_config(depth, 0, quick=quick)), radii, quick=quick)
            for depth in depths
        ),
        *(
            pressed(attacked_classifier, settings_of(dense_config(40, m, 0, quick=quick)), radii, quick=quick)
            for m in monotonicities
        ),
    ]


def _shown(setting: str, bound: str, group: Sequence[Record]) -> tuple[list[Quantity], list[Series]]:
    """Rows and curves of one kind of network, one for each rule."""
    rows, lines = [], []
    for rule in group[0].measured["certified"]:
        means = mean_curve("", RADII, [record.measured["certified"][rule] for record in group])
        lines.append(Series(f"{setting}, {RULES[rule]}", RADII, means.y, means.spread))
        if rule == "paper":
            lines += published_points(lines[-1].label, {RADII[-1]: PUBLISHED.get(setting)})
        for place in IN_TABLE:
            radius = RADII[place]
            published = PUBLISHED.get(setting) if rule == "paper" and place == len(RADII) - 1 else None
            values = [record.measured["certified"][rule][place] for record in group]
            name = f"certified accuracy at {radius:g}, %, {RULES[rule]}"
            rows.append(Quantity(setting, name, values, "higher", published, remark_on(group)))
    rows.append(quantity(group, setting, "test error, %", lambda measured: measured["test_error"]))
    rows.append(
        quantity(
            group,
            setting,
            f"constant per pixel, {bound}",
            lambda measured: measured["product" if "m =" in setting else "lipschitz"],
        )
    )
    return rows, lines


def view(records: Sequence[Record]) -> View:
    """Certified accuracies over the radius, by rule."""
    rows: list[Quantity] = []
    lines: list[Series] = []
    for depth, group in grouped(of_task(records, deep_network), depth_of).items():
        found = _shown(f"d = {depth:g}", "LipSDP", group)
        ours = [line for line in found[1] if line.label.endswith(RULES["paper"])]
        rows, lines = rows + found[0], lines + ours
    for m, group in grouped(of_task(records, dense_network), lambda record: family_of(record)["m"]).items():
        found = _shown(f"m = {m:g}", "‖U‖‖W_o‖/m", group)
        rows, lines = rows + found[0], lines + found[1]
    sentence = (
        "Certified accuracy over the Euclidean radius: explicit networks by LipSDP and the published rule margin/(2L), monotone "
        "ones by that rule with ‖U‖‖W_o‖/m, by margin/(√2 L) with the best constant, and by constants of class pairs."
    )
    picture = Figure("monotone-fig4a", sentence, "radius, pixels in [0, 1]", "certified accuracy, %", lines)
    explicit, monotone = of_task(records, attacked_deep_network), of_task(records, attacked_classifier)
    attacked = same_images([*explicit, *monotone], setting_of)
    return [Table("Certified accuracy", rows), *attacked, picture]

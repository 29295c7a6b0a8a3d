"""Figures 2 and 9: Lipschitz constants, test errors and robustness of networks on CIFAR-10."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wellposed.models.families import ConvolutionalFamily
from wellposed.reproduction.cell import Cell, Record, Workspace
from wellposed.reproduction.measurements import of_task
from wellposed.reproduction.networks import facts, preset_with, settings_of, trained
from wellposed.reproduction.papers.monotone.dense import per_normalised
from wellposed.reproduction.papers.monotone.images import convolutional_network
from wellposed.reproduction.papers.monotone.showing import (
    curve,
    family_of,
    grouped,
    mean_curve,
    quantity,
    remark_on,
)
from wellposed.reproduction.robustness import robustness
from wellposed.reproduction.strongest import attacked_classifier, check_order, pressed, same_images
from wellposed.reproduction.view import Figure, Published, Quantity, Series, Table, View
from wellposed.training.config import TrainConfig

MONOTONICITIES = (0.1, 0.5, 1.0, 2.0, 10.0, 20.0)
CHANNELS = {2: (32, 32), 4: (32, 32, 64, 64), 6: (32, 32, 64, 64, 128, 128)}  # CNN sm, med and lg
RADII = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
LOSSLESS, JPEG = "cifar10-lossless", "cifar10-jpeg"
_STEPS = 50
_LEGEND = "legend of Fig. 9"
_RECOMPRESSED = "ours is trained on JPEG-recompressed CIFAR-10"
MULTI, SINGLE = "mondeq-multi", "mondeq-conv"
_OF_M = {0.1: (806.56, 26.65), 0.5: (250.64, 26.3), 1.0: (159.96, 26.44), 2.0: (109.23, 27.29), 10.0: (78.9, 30.46),
         20.0: (51.19, 33.34)}  # fmt: skip
_OF_DEPTH = {2: (42.41, 34.46), 4: (1554.01, 30.6), 6: (5.79e7, 26.94)}
_OF_MULTI = (1996.86, 10.25)


def photograph_network(
    workspace: Workspace, *, config: dict[str, Any], limit: int | None, attacked: int, steps: int
) -> dict[str, Any]:
    """Train a network on CIFAR-10, certify and attack it on images with exact pixels.

    Returns:
        What `facts` says of the run's own test images and `robustness` of the exact ones; ``lossless_error`` in % of these; and
        ``without_pool``, the product that leaves out the norm 1/p of averages over p × p pixels.
    """
    run = trained(workspace, TrainConfig.from_dict(config))
    attack = {"images": attacked, "steps": steps, "radii": RADII}
    found = robustness(workspace, run, radii=RADII, limit=limit, attack=attack, data=LOSSLESS)
    pool = config["family"].get("pool", 1)
    return {
        **facts(workspace, run, limit), **found, "without_pool": found["product"] * pool,
        "lossless_error": facts(workspace, run, limit, data=LOSSLESS)["test_error"],
    }  # fmt: skip


def _configs(quick: bool) -> list[TrainConfig]:
    if quick:
        small = {"width": 4, "stride": 4, "pool": 2, "m": 20.0}
        monotone = [preset_with("papers/cifar10-mondeq-conv", family=small, data=LOSSLESS, epochs=1)]
        return [*monotone, _explicit((4, 4), 10, LOSSLESS, 1)]
    configs = [
        preset_with("papers/cifar10-mondeq-conv", family={"width": 128, "m": m}, data=JPEG) for m in MONOTONICITIES
    ]
    configs.append(preset_with("papers/cifar10-mondeq-multi-large", data=JPEG))
    return configs + [_explicit(channels, 100, JPEG, 40) for channels in CHANNELS.values()]


def _explicit(channels: tuple[int, ...], hidden: int, data: str, epochs: int) -> TrainConfig:
    family = ConvolutionalFamily(widths=channels, hidden=hidden)
    return TrainConfig(family, data, epochs=epochs, learning_rate=1e-3, validation=0.0)


def cells(quick: bool) -> list[Cell]:
    """Every network, and for explicit ones the published bounds besides."""
    extent = {"limit": 20 if quick else None, "attacked": 4 if quick else 100, "steps": 5 if quick else _STEPS}
    explicit = {"limit": extent["limit"], "rank": 10 if quick else 40}
    found = []
    for config in _configs(quick):
        settings = settings_of(config)
        found.append(Cell(photograph_network, {"config": settings, **extent}))
        if config.family.name == ConvolutionalFamily.name:
            found.append(Cell(convolutional_network, {"config": settings, **explicit}))
    return found


def figure_9_cells(quick: bool) -> list[Cell]:
    """The networks of Figure 2, and all attacks on them."""
    attacked = [
        pressed(attacked_classifier, settings_of(config), RADII, quick=quick, data=LOSSLESS)
        for config in _configs(quick)
    ]
    return [*cells(quick), *attacked]


def _setting(record: Record) -> str:
    family = family_of(record)
    if family["name"] == ConvolutionalFamily.name:
        return f"explicit, {len(family['widths'])} convolutions"
    return f"{'several tiers' if family['name'] == MULTI else 'single convolution'}, m = {family['m']:g}"


def _published(record: Record) -> tuple[float, float] | None:
    """Constant and error that the paper states."""
    family = family_of(record)
    if family["name"] == ConvolutionalFamily.name:
        return _OF_DEPTH.get(len(family["widths"]))
    return _OF_MULTI if family["name"] == MULTI else _OF_M.get(family["m"])


def _rows(setting: str, group: Sequence[Record]) -> list[Quantity]:
    """Error and constants of one network."""
    published = _published(group[0])
    constant = published and Published(published[0], _LEGEND, 0.005, _RECOMPRESSED)
    error = published and Published(published[1], _LEGEND, 0.05, _RECOMPRESSED)
    greedy = group[0].is_of(convolutional_network)
    if greedy:
        return [
            quantity(
                group, setting, "constant per normalised pixel, greedy SeqLip, an estimate",
                lambda measured: measured["seqlip"], published=constant or None, remark="This certifies nothing.",
            )
        ]  # fmt: skip
    explicit = family_of(group[0])["name"] == ConvolutionalFamily.name
    names = (
        ("as published, without the pool's norm", "without_pool"), ("product of norms", "product"), ("best bound", "lipschitz"),
        ("proved lower bound", "lower_bound"),
    )  # fmt: skip
    data = group[0].settings["config"]["data"]
    return [
        quantity(
            group,
            setting,
            f"test error on {data}, %",
            lambda measured: measured["test_error"],
            published=error or None,
        ),
        quantity(group, setting, f"test error on {LOSSLESS}, %", lambda measured: measured["lossless_error"]),
        *(
            quantity(
                group, setting, f"constant per normalised pixel, {name}", per_normalised(key),
                published=(constant or None) if key == "without_pool" else None,
            )
            for name, key in names[1 if explicit else 0 :]
        ),
    ]  # fmt: skip


def _single(records: Sequence[Record]) -> dict[float, list[Record]]:
    members = [record for record in of_task(records, photograph_network) if family_of(record)["name"] == SINGLE]
    return grouped(members, lambda record: float(family_of(record)["m"]))


def figure_2(records: Sequence[Record]) -> View:
    """Constants and test errors over m; explicit networks as level lines."""
    groups = _single(records)
    x = list(groups)
    shown = of_task(records, photograph_network, convolutional_network)
    rows = [row for (setting, _), group in _by_task(shown).items() for row in _rows(setting, group)]
    named = (("as published", "without_pool"), ("best bound", "lipschitz"), ("proved lower bound", "lower_bound"))
    constants = [curve(name, groups, per_normalised(key)) for name, key in named] + _levels(records, x, "seqlip")
    errors = [curve("monotone", groups, lambda measured: measured["test_error"]), *_levels(records, x, "test_error")]
    of_constants = (
        "Lipschitz constants of a monotone convolution over m, and greedy SeqLip estimates of explicit networks, which are no "
        "certificates, as level lines."
    )
    of_errors = "Test errors on CIFAR-10 of a monotone convolution over m, and of explicit networks as level lines."
    return [
        Table("CIFAR-10", rows),
        Figure("monotone-fig2a", of_constants, "m", "Lipschitz constant per normalised pixel", constants, True),
        Figure("monotone-fig2b", of_errors, "m", "test error, %", errors),
    ]


def _by_task(records: Sequence[Record]) -> dict[tuple[str, str], list[Record]]:
    return grouped(records, lambda record: (_setting(record), record.task))


def _levels(records: Sequence[Record], x: list[float], key: str) -> list[Series]:
    """Explicit networks, which have no m, as level lines."""
    members = of_task(records, convolutional_network)
    return [mean_curve(_setting(record), x, [[record.measured[key]] * len(x)]) for record in members]


def figure_9(records: Sequence[Record]) -> View:
    """Certified accuracy by the best rule, and accuracy under attack, over the radius."""
    groups = grouped(of_task(records, photograph_network), _setting)
    rows, certified, attacked = [], [], []
    for setting, group in groups.items():
        for record in group:
            check_order(record.measured["certified_of_attacked"], record.measured["attacked"], RADII, setting)
        best = [list(record.measured["certified"].values())[-1] for record in group]
        certified.append(mean_curve(setting, RADII, best))
        attacked.append(mean_curve(setting, RADII, [record.measured["attacked"] for record in group]))
        for place, radius in enumerate(RADII):
            for name, values in (
                ("certified", [shares[place] for shares in best]),
                ("under attack, the first images", [record.measured["attacked"][place] for record in group]),
                (
                    "certified, the first images",
                    [record.measured["certified_of_attacked"][place] for record in group],
                ),
            ):
                words = f"accuracy at {radius:g}, %, {name}"
                rows.append(Quantity(setting, words, values, "higher", None, remark_on(group)))
    x = "radius, pixels in [0, 1]"
    proved = "Accuracy on CIFAR-10 certified by the best rule and a proved constant, explicit networks by their product of norms."
    tried = "Accuracy on CIFAR-10 under the nearest of DeepFool's and projected gradients' adversarial examples."
    return [
        Table("Certified accuracy and accuracy under attack, images with exact pixels", rows),
        *same_images(of_task(records, attacked_classifier), _setting),
        Figure("monotone-fig9a", proved, x, "certified accuracy, %", certified),
        Figure("monotone-fig9b", tried, x, "accuracy under attack, %", attacked),
    ]

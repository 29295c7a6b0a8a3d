"""CIFAR-10: convolutional networks with 81 channels over γ and over kinds of metric, and dense ones; SVHN."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from wellposed.models.families import ConvolutionalFamily
from wellposed.reproduction.cell import Cell, Record
from wellposed.reproduction.measurements import accuracy, best_rule, by_seed, image_classifier, of_task
from wellposed.reproduction.networks import learned_nothing, preset_with, settings_of
from wellposed.reproduction.papers.lben.bounds import SOURCE, against_constants
from wellposed.reproduction.papers.lben.networks import EPOCHS, LIMIT_QUICK, MONDEQ, UNCONSTRAINED, label, mnist
from wellposed.reproduction.strongest import attacked_classifier, pressed, same_images
from wellposed.reproduction.view import Figure, Published, Quantity, Table, View
from wellposed.training.config import TrainConfig

RADII = (0.05, 0.1, 0.2)  # Euclidean, pixels in [0, 1]
JPEG, LOSSLESS = "cifar10-jpeg", "cifar10-lossless"  # all images, recompressed; and few, as published
_FEW = 1000  # test images of the latter
_COMPRESSED = "the images here are recompressed by JPEG"
GAMMAS = (1.0, 2.0, 3.0, 5.0, 50.0, 0.0)
DENSE = (0.2, 0.3, 0.4, 0.5, 0.8, 1.0, 5.0, 0.0, MONDEQ)

# Test error in %, and the lower bound of the constant per normalised pixel.
PUBLISHED: dict[str, tuple[float, float]] = {
    "full, γ = 1": (36.22, 0.596), "full, γ = 2": (32.26, 0.921), "full, γ = 3": (31.31, 1.139), "full, γ = 5": (29.94, 1.391),
    "full, γ = 50": (28.47, 2.890), "full, γ = ∞": (31.14, 27.86), "identity, γ = 1": (36.37, 0.601),
    "identity, γ = 2": (32.83, 0.921), "identity, γ = 3": (31.57, 1.131), "identity, γ = 5": (30.26, 1.420),
    "identity, γ = 50": (28.89, 2.583), "identity, γ = ∞": (30.77, 27.42), "explicit": (33.06, 8.775),
}  # fmt: skip
PUBLISHED_DENSE: dict[str, tuple[float, float]] = {
    "γ = 0.2": (53.76, 0.176), "γ = 0.3": (52.20, 0.248), "γ = 0.4": (51.25, 0.348), "γ = 0.5": (50.91, 0.417),
    "γ = 0.8": (50.94, 0.617), "γ = 1": (49.96, 0.745), "γ = 5": (50.90, 1.57), "γ = ∞": (49.42, 2.25),
    "monDEQ": (49.72, 2.29), "unconstrained": (50.27, 2.73),
}  # fmt: skip
PUBLISHED_SVHN: dict[str, tuple[float, float]] = {
    "identity, γ = 1": (30.37, 0.592), "identity, γ = 2": (19.23, 1.081), "identity, γ = 3": (17.64, 1.424),
    "identity, γ = 5": (16.35, 1.911),
}  # fmt: skip


def convolutional(gamma: float, metric: str, *, quick: bool, data: str = JPEG, width: int = 81) -> TrainConfig:
    """A convolutional network in the published setting."""
    family: dict[str, Any] = {"gamma": gamma, "metric": metric, "width": 4 if quick else width}
    if quick:
        family |= {"stride": 4, "border": 0}
    return preset_with(
        "papers/cifar10-lben-conv", family=family, data=LOSSLESS if quick else data, epochs=1 if quick else 25
    )


def explicit(quick: bool) -> TrainConfig:
    """The published baseline: one explicit convolution."""
    config = convolutional(0.0, "identity", quick=quick)
    return dataclasses.replace(config, family=ConvolutionalFamily(width=4 if quick else 81, depth=1))


def conv_cells(quick: bool) -> list[Cell]:
    """Every γ in the metrics of the table, and the explicit network."""
    kinds = [(50.0, "channels")] if quick else [(gamma, metric) for metric in ("full", "identity") for gamma in GAMMAS]
    configs = [convolutional(gamma, metric, quick=quick) for gamma, metric in kinds]
    return [
        *certified_cells(configs, quick),
        _uncertified(explicit(quick), quick),
        *_exact([*configs, explicit(quick)]),
    ]


def svhn_cells(quick: bool) -> list[Cell]:
    """Four γ in the identity metric, 40 channels."""
    gammas = (5.0,) if quick else (1.0, 2.0, 3.0, 5.0)
    configs = [convolutional(gamma, "identity", quick=False, data="svhn", width=40) for gamma in gammas]
    return certified_cells(
        [dataclasses.replace(config, epochs=1 if quick else config.epochs) for config in configs], quick
    )


def dense(kind: float | str, *, quick: bool) -> TrainConfig:
    """A dense network of width 80, see `mnist` for what kinds there are."""
    return dataclasses.replace(mnist(kind, seed=0, quick=quick), data=LOSSLESS if quick else JPEG)


def dense_cells(quick: bool) -> list[Cell]:
    """Dense networks over γ."""
    configs = [dense(kind, quick=quick) for kind in (*((1.0,) if quick else DENSE), UNCONSTRAINED)]
    return [*certified_cells(configs[:-1], quick), _uncertified(configs[-1], quick), *_exact(configs)]


def certified_cells(configs: Sequence[TrainConfig], quick: bool, **attacked: Any) -> list[Cell]:
    """Each network certified, and pressed by all attacks, with further settings of these."""
    limit, settings = LIMIT_QUICK if quick else None, [settings_of(config) for config in configs]
    return [
        *(Cell(image_classifier, {"config": config, "radii": RADII, "limit": limit}) for config in settings),
        *(pressed(attacked_classifier, config, RADII, quick=quick, **attacked) for config in settings),
    ]


def _uncertified(config: TrainConfig, quick: bool) -> Cell:
    return Cell(accuracy, {"config": settings_of(config), "limit": LIMIT_QUICK if quick else None})


def _exact(configs: Sequence[TrainConfig]) -> list[Cell]:
    """What networks of recompressed images say of the few images whose pixels are exact."""
    return [
        Cell(accuracy, {"config": settings_of(config), "limit": None, "data": LOSSLESS})
        for config in configs
        if config.data == JPEG
    ]


def name_of(config: dict[str, Any]) -> str:
    """What the tables call a network: its metric where it is convolutional, and γ."""
    family = config["family"]
    return f"{family['metric']}, {label(config)}" if family["name"] == "lben-conv" else label(config)


def errors_and_constants(
    records: Sequence[Record], title: str, picture: str, known: Mapping[str, tuple[float, float]], differs: str
) -> View:
    """Errors, constants and certified accuracies of networks, and the picture of the first two.

    Args:
        records: of the networks.
        title: of the table.
        picture: name of the figure.
        known: published error in % and lower bound of the constant per normalised pixel, by the names of networks.
        differs: why these must not be compared, see `Published`.
    """
    table = []
    exact = {name: [r.measured["test_error"] for r in group] for name, group in _groups(records, exact=True)}
    for name, group in _groups(records, exact=False):
        error = Published(known[name][0], SOURCE, 0.005, differs) if name in known else None
        remark = " ".join(sorted({learned_nothing(record.measured) for record in group} - {""}))
        table.append(Quantity(name, "test error, %", [r.measured["test_error"] for r in group], "lower", error, remark))
        if name in exact:
            table.append(Quantity(name, f"test error on {LOSSLESS}, {_FEW:,} images, %", exact[name], "lower"))
        if "lipschitz" not in group[0].measured:
            continue
        found = [r.measured["lower_bound"] * r.measured["deviation"] for r in group]
        table += [
            Quantity(name, "constant per pixel, at most", [r.measured["lipschitz"] for r in group], "lower"),
            Quantity(name, "constant per pixel, at least", [r.measured["lower_bound"] for r in group], "equal"),
            lower_bound_row(name, found, known, differs),
        ]
        table += [
            Quantity(name, f"certified at {radius:g}, %", [best_rule(r.measured)[k] for r in group], "higher")
            for k, radius in enumerate(RADII)
        ]
    series = against_constants(
        of_task(records, image_classifier), lambda record: name_of(record.settings["config"]), known
    )
    sentence = (
        f"{title}: test error against the certified constant and its proved lower bound; the line is over γ, networks without a "
        "prescribed constant are marks of their own."
    )
    attacked = same_images(of_task(records, attacked_classifier), lambda record: name_of(record.settings["config"]))
    return [
        Table(title, table),
        *attacked,
        Figure(
            picture, sentence, "Lipschitz constant per normalised pixel", "test error, %", series, logarithmic_x=True
        ),
    ]


def _groups(records: Sequence[Record], *, exact: bool) -> list[tuple[str, list[Record]]]:
    """The seeds of every network by its name, measured on its own set, or on exact pixels."""
    found = [r for r in of_task(records, image_classifier, accuracy) if (r.settings.get("data") is not None) == exact]
    return [(name_of(group[0].settings["config"]), group) for group in by_seed(found)]


def lower_bound_row(
    name: str, values: Sequence[float], known: Mapping[str, tuple[float, float]], differs: str
) -> Quantity:
    """How large the constant of a network is at least, per normalised pixel.

    Args:
        name: of the network.
        values: one for each seed.
        known: published errors and lower bounds, by the names of networks.
        differs: why these must not be compared, see `Published`.
    """
    sought = f"{differs}, and the authors' bound is what an ascent from noise found" if differs else ""
    published = Published(known[name][1], SOURCE, 0.0005, sought) if name in known else None
    return Quantity(name, "constant per normalised pixel, at least", values, "equal", published)


def conv_view(records: Sequence[Record]) -> View:
    """Errors and constants of convolutional networks."""
    return errors_and_constants(
        records, "Convolutional networks on CIFAR-10", "lben-cifar-conv", PUBLISHED, _COMPRESSED
    )


def dense_view(records: Sequence[Record]) -> View:
    """Errors and constants of dense networks."""
    return errors_and_constants(
        records, "Dense networks on CIFAR-10", "lben-cifar-dense", PUBLISHED_DENSE, differs_of(records)
    )


def differs_of(records: Sequence[Record]) -> str:
    """Why errors and constants of dense networks must not be compared with the published ones."""
    epochs = records[0].settings["config"]["epochs"]
    return _COMPRESSED + ("" if epochs == EPOCHS else f", and training takes {epochs} of the published {EPOCHS} epochs")


def svhn_view(records: Sequence[Record]) -> View:
    """Errors and constants on SVHN."""
    return errors_and_constants(records, "Convolutional networks on SVHN", "lben-svhn", PUBLISHED_SVHN, "")

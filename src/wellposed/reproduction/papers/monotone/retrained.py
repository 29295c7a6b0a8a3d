"""Networks of Figures 1, 3, 4a, 5, 6 and 8, and of Table 1 of Winston & Kolter, under other trainings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from wellposed.reproduction.cell import Cell, Record
from wellposed.reproduction.networks import settings_of
from wellposed.reproduction.other_trainings import Explained, table_of, training_of
from wellposed.reproduction.papers.monotone import accuracy, certified, deep, dense, errors, images, risk, widths
from wellposed.reproduction.papers.monotone.margins import explicit_to_margin, monotone_to_margin, risk_of_trained
from wellposed.reproduction.papers.monotone.showing import family_of
from wellposed.reproduction.view import View
from wellposed.training.config import TrainConfig

TRAININGS = ((3, 1e-3), (10, 1e-3), (40, 1e-3), (15, 1e-2))  # epochs, peak of the learning rate
DEPTHS = (*(int(depth) for depth in deep.PUBLISHED), 14)
MONOTONICITIES = (0.1, 0.5, 20.0)
WIDTH = 40
OF_WIDTHS = (3, 1e-3), (15, 1e-2)  # trainings of networks of other widths
CONVOLUTION = "papers/mnist-mondeq-conv", 1  # and its epochs
IMAGES = ("mondeq-conv", 20.0, 6), ("mondeq-multi", 10.0, 4), ("mondeq-multi", 20.0, 4)  # kinds, m and epochs
AS_WIDE = 20.0, 1  # m and epochs of a network with the published channels and pixels
RATES = (1e-3, 3e-3)  # learning rates of networks that are trained to a margin
IN_FIGURE_3 = (0.1, 0.5, 20.0)  # m
EXPLICIT_IN_FIGURE_3 = (3, 10, 12, 14)  # linear maps
EXPLICIT_RATES = (1e-3, 1e-2)
DECAYS = (1e-4, 1e-3)  # of explicit networks that begin with orthogonal weights, at the smallest of the rates
DESCENT = {"depth": 3, "learning_rate": 0.1, "descent_of": 16, "epochs": 2000}
DESCENTS = DESCENT, {**DESCENT, "maps": 2}  # of the least explicit network in Figure 3, whose depth may count otherwise
NOTEBOOK = {"samples": 4096, "gamma": risk.GAMMA, "radius": 50.0}  # of the bound with m = 20


def cells(quick: bool) -> list[Cell]:
    """Explicit networks of every depth with a published constant, and monotone ones, under every training."""
    trainings, depths, monotonicities = (((1, 1e-3),), (3,), (20.0,)) if quick else (TRAININGS, DEPTHS, MONOTONICITIES)
    limit = dense.QUICK_LIMIT if quick else None
    explicit = [(deep.deep_network, deep.deep_config(depth, 0, quick=quick)) for depth in depths]
    monotone = [(dense.dense_network, dense.dense_config(WIDTH, m, 0, quick=quick)) for m in monotonicities]
    kinds: list[tuple[Callable[..., dict[str, object]], TrainConfig]] = [*explicit, *monotone]
    return [
        *(
            Cell(measure, {"config": settings_of(replace(config, epochs=epochs, learning_rate=rate)), "limit": limit})
            for epochs, rate in trainings
            for measure, config in kinds
        ),
        *(() if quick else (*_smaller_batches(), *_to_margin(), *_of_trained(), *_of_widths(), *_of_images())),
    ]


def _of_images() -> list[Cell]:
    """Convolutional networks."""
    return [
        accuracy.mnist_cell(*CONVOLUTION),
        *(images.monotone_cell(*settings) for settings in IMAGES),
        images.published_cell(*AS_WIDE),
    ]


def _of_widths() -> list[Cell]:
    """Monotone networks of every width of Figure 6."""
    configs = [dense.dense_config(width, widths.M, 0, quick=False) for width in widths.WIDTHS]
    return [
        Cell(
            dense.dense_network,
            {"config": settings_of(replace(config, epochs=epochs, learning_rate=rate)), "limit": None},
        )
        for epochs, rate in OF_WIDTHS
        for config in configs
    ]


def _smaller_batches() -> list[Cell]:
    """The deepest explicit network, in smaller batches."""
    deepest = deep.deep_config(max(DEPTHS), 0, quick=False)
    config = replace(deepest, epochs=15, learning_rate=1e-3, batch_size=32, weight_decay=0.05)
    return [Cell(deep.deep_network, {"config": settings_of(config), "limit": None})]


def _of_trained() -> list[Cell]:
    """The bound of the paper's notebook, whose network is trained on all images, under every training."""
    m = max(MONOTONICITIES)
    configs = [
        replace(dense.dense_config(WIDTH, m, 0, quick=False), epochs=epochs, learning_rate=rate)
        for epochs, rate in TRAININGS
    ]
    return [Cell(risk_of_trained, {"m": m, "config": settings_of(config), **NOTEBOOK}) for config in configs]


def _to_margin() -> list[Cell]:
    """Networks of Figure 3 under every learning rate."""
    settings = {**risk.extent(False), "seed": 0}
    monotone = {**settings, "steps": list(risk.STEPS)}
    return [
        *(
            Cell(explicit_to_margin, {**settings, "depth": depth, "learning_rate": rate})
            for depth in EXPLICIT_IN_FIGURE_3
            for rate in EXPLICIT_RATES
        ),
        *(
            Cell(
                explicit_to_margin,
                {
                    **settings,
                    "depth": depth,
                    "learning_rate": min(EXPLICIT_RATES),
                    "orthogonal": True,
                    "weight_decay": decay,
                },
            )
            for depth in EXPLICIT_IN_FIGURE_3
            for decay in DECAYS
        ),
        *(Cell(explicit_to_margin, {**settings, **descent}) for descent in DESCENTS),
        *(Cell(monotone_to_margin, {**monotone, "m": m, "learning_rate": rate}) for m in IN_FIGURE_3 for rate in RATES),
    ]


def figures() -> dict[str, Explained]:
    """The figures whose networks are trained otherwise here, by the names of their recipes."""
    explicit, monotone = _of(deep.deep_network), _of(dense.dense_network)

    def of_sweep(record: Record) -> bool:  # over m, of one width
        return explicit(record) or (monotone(record) and family_of(record)["m"] in MONOTONICITIES)

    convolutional = _of(images.image_network)

    return {
        "monotone-fig1a": Explained(deep.constants, explicit),
        "monotone-fig1b": Explained(dense.constants, monotone),
        "monotone-fig3a": Explained(risk.explicit_bounds, _of(explicit_to_margin)),
        "monotone-fig3b": Explained(risk.monotone_bounds, _of(monotone_to_margin, risk_of_trained)),
        "monotone-fig4a": Explained(certified.view, of_sweep),
        "monotone-fig1d": Explained(images.monotone_constants, convolutional, otherwise),
        "monotone-fig5": Explained(errors.view, lambda record: of_sweep(record) or convolutional(record), otherwise),
        "monotone-fig6": Explained(widths.view, lambda record: monotone(record) and family_of(record)["m"] == widths.M),
        "monotone-fig8": Explained(risk.figure_8, _of(explicit_to_margin, monotone_to_margin)),
        "monotone-accuracy": Explained(accuracy.mnist_view, _of(accuracy.accuracy)),
    }


def _of(*measures: Callable[..., dict[str, object]]) -> Callable[[Record], bool]:
    return lambda record: any(map(record.is_of, measures))


def otherwise(record: Record) -> str:
    """What tables call the training of a network, and its channels and pixels, where they are as published."""
    words = training_of(record)
    if record.is_of(images.image_network) and images.of_published_size(record):
        words += f" with {family_of(record)['width']} channels on 30 × 30 pixels"
    return words


def view(records: Sequence[Record]) -> View:
    """Every published quantity under every training."""
    return [table_of("The same networks under other trainings", figures(), records)]

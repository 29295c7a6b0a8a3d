"""Accuracies of monotone networks (Winston & Kolter 2020, Table 1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from wellposed.reproduction.cell import Cell, Record, Workspace
from wellposed.reproduction.networks import facts, preset_with, settings_of, trained
from wellposed.reproduction.papers.monotone.showing import SEEDS, grouped, quantity
from wellposed.reproduction.view import Published, Table, View
from wellposed.training.config import TrainConfig

_SOURCE = "Winston & Kolter 2020, Table 1, quoted second-hand"
_RECOMPRESSED = "ours is trained on JPEG-recompressed CIFAR-10"
CIFAR = {
    "papers/cifar10-mondeq-conv": ("single convolution, 81 channels", Published(74.0, _SOURCE, 0.1, _RECOMPRESSED)),
    "papers/cifar10-mondeq-multi": ("tiers of 16, 32, 60 channels", Published(72.0, _SOURCE, 0.3, _RECOMPRESSED)),
    "papers/cifar10-mondeq-conv-large": (
        "single convolution, 200 channels, augmented", Published(82.0, _SOURCE, 0.3, _RECOMPRESSED),
    ),
    "papers/cifar10-mondeq-multi-large": (
        "tiers of 64, 128, 128 channels, augmented", Published(89.0, _SOURCE, 0.3, _RECOMPRESSED),
    ),
}  # fmt: skip
MNIST = {
    "mnist-plain": ("dense, h = 87", Published(98.1, _SOURCE, 0.1)),
    "papers/mnist-mondeq-conv": ("single convolution, 54 channels", Published(99.1, _SOURCE, 0.1)),
    "papers/mnist-mondeq-multi": ("tiers of 16, 32, 32 channels", Published(99.0, _SOURCE, 0.1)),
}
_EPOCHS = {"mnist-plain": 15, "papers/mnist-mondeq-conv": 2, "papers/mnist-mondeq-multi": 1}
_PUBLISHED_EPOCHS = 40


def accuracy(workspace: Workspace, *, preset: str, config: dict[str, Any], limit: int | None) -> dict[str, Any]:
    """Train a network and measure its errors, see `facts`; the preset's name is kept for the table."""
    return facts(workspace, trained(workspace, TrainConfig.from_dict(config)), limit)


def mnist_cells(quick: bool) -> list[Cell]:
    """The dense network with three seeds, convolutional ones with one and few epochs."""
    if quick:
        config = preset_with("mnist-plain", family={"width": 87, "m": 1.0}, epochs=1)
        return [_cell("mnist-plain", config, 1000)]
    dense = [
        preset_with("mnist-plain", family={"width": 87, "m": 1.0}, epochs=_EPOCHS["mnist-plain"], seed=seed)
        for seed in SEEDS
    ]
    return [
        *(_cell("mnist-plain", config, None) for config in dense),
        *(mnist_cell(name, _EPOCHS[name]) for name in list(MNIST)[1:]),
    ]


def mnist_cell(preset: str, epochs: int) -> Cell:
    """One of the published architectures, trained for so many epochs."""
    return _cell(preset, preset_with(preset, epochs=epochs), None)


def cifar_cells(quick: bool) -> list[Cell]:
    """The published architectures, on JPEG-recompressed images."""
    if quick:
        name = "papers/cifar10-mondeq-conv"
        family = {"width": 4, "stride": 4, "pool": 2}
        return [_cell(name, preset_with(name, family=family, data="cifar10-lossless", epochs=1), 1000)]
    return [_cell(name, preset_with(name, data="cifar10-jpeg"), None) for name in CIFAR]


def _cell(preset: str, config: TrainConfig, limit: int | None) -> Cell:
    return Cell(accuracy, {"preset": preset, "config": settings_of(config), "limit": limit})


def _view(rows: dict[str, tuple[str, Published]]) -> Callable[[Sequence[Record]], View]:
    def view(records: Sequence[Record]) -> View:
        quantities = []
        for preset, group in grouped(records, lambda record: str(record.settings["preset"])).items():
            setting, published = rows[preset]
            config = group[0].settings["config"]
            remark = f"{config['epochs']} of the published {_PUBLISHED_EPOCHS} epochs." if preset in MNIST else ""
            quantities.append(
                quantity(
                    group, setting, f"test accuracy on {config['data']}, %", lambda measured: 100.0 - measured["test_error"],
                    "higher", published, remark,
                )
            )  # fmt: skip
            quantities.append(quantity(group, setting, "parameters", lambda measured: measured["parameters"], "equal"))
        return [Table("Accuracies", quantities)]

    return view


mnist_view, cifar_view = _view(MNIST), _view(CIFAR)

"""Convolutional networks in the published settings, on MNIST and on CIFAR-10."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wellposed.reproduction.cell import Cell, Record
from wellposed.reproduction.measurements import by_seed, of_task
from wellposed.reproduction.networks import learned_nothing, preset_with, settings_of
from wellposed.reproduction.papers.nemon.networks import LIMIT_QUICK
from wellposed.reproduction.papers.nemon.robust import attacked_boxes, boxes, mean_of_attacked
from wellposed.reproduction.strongest import pressed, same_images
from wellposed.reproduction.view import Figure, Quantity, Series, Table, View

RADII = (0.002, 0.005, 0.01, 0.02)
SMALL_LIMIT = 1000  # test images that a small network is measured on
JPEG, LOSSLESS = "cifar10-jpeg", "cifar10-lossless"


def _cells(
    preset: str, quick: bool, family: dict[str, Any], attacked: dict[str, Any], limit: int | None = None, **changes: Any
) -> list[Cell]:
    """A network with a family's options changed, certified and attacked, and pressed with further settings.

    Args:
        preset: of the training.
        quick: whether it is a small one.
        family: changed options of the family.
        attacked: further settings of the stronger attacks.
        limit: how many test images are certified; None for all.
        changes: changed options of the training.
    """
    if quick:
        family, attacked, changes["epochs"] = {"width": 4, "taps": 3, "stride": 4, "pool": 2}, {}, 1
    config = settings_of(preset_with(preset, family=family, **changes))
    extent = (
        {"limit": LIMIT_QUICK, "images": 50, "steps": 5} if quick else {"limit": limit, "images": 1000, "steps": 40}
    )
    return [
        Cell(boxes, {"config": config, "radii": RADII, **extent}),
        pressed(attacked_boxes, config, RADII, quick=quick, **attacked),
    ]


def mnist_cells(quick: bool) -> list[Cell]:
    """64 channels with 5 × 5 taps."""
    return _cells("papers/mnist-nemon-conv", quick, {}, {})


def small_cells(quick: bool) -> list[Cell]:
    """64 channels behind a stride of two, after few epochs; fewer images are certified and pressed."""
    return _cells("papers/mnist-nemon-conv", quick, {"stride": 2, "pool": 2}, {"images": 20}, SMALL_LIMIT, epochs=4)


def cifar_cells(quick: bool) -> list[Cell]:
    """81 channels with 5 × 5 taps."""
    return _cells("papers/cifar10-nemon-conv", quick, {}, {}, data=LOSSLESS if quick else JPEG)


def _name(record: Record) -> str:
    return f"{record.settings['config']['family']['width']} channels"


def _view(records: Sequence[Record], title: str, picture: str) -> View:
    table, series = [], []
    for group in by_seed(of_task(records, boxes)):
        name, measured = _name(group[0]), [record.measured for record in group]
        remark = " ".join(sorted({learned_nothing(found) for found in measured} - {""}))
        table.append(
            Quantity(name, "test error, %", [found["test_error"] for found in measured], "lower", None, remark)
        )
        for key, words in (("certified", "certified"), ("attacked", "under projected gradients")):
            rows = [
                Quantity(
                    name, f"accuracy at {radius:g}, {words}, %", [found[key][place] for found in measured], "higher"
                )
                for place, radius in enumerate(RADII)
            ]
            table += rows
            series.append(Series(f"{name}, {words}", RADII, mean_of_attacked(measured, key, RADII)))
    sentence = f"{title}: accuracy over the ℓ∞ radius, certified by intervals and under projected gradients."
    attacked = same_images(of_task(records, attacked_boxes), _name)
    return [
        Table(title, table),
        *attacked,
        Figure(picture, sentence, "ℓ∞ radius, pixels in [0, 1]", "accuracy, %", series),
    ]


def mnist_view(records: Sequence[Record]) -> View:
    """Error and accuracies on MNIST."""
    return _view(records, "Convolutional network on MNIST", "nemon-mnist-conv")


def small_view(records: Sequence[Record]) -> View:
    """Error and accuracies on MNIST behind a stride."""
    title = f"Small convolutional network on MNIST, first {SMALL_LIMIT} test images"
    return _view(records, title, "nemon-mnist-conv-small")


def cifar_view(records: Sequence[Record]) -> View:
    """Error and accuracies on CIFAR-10."""
    return _view(records, "Convolutional network on CIFAR-10", "nemon-cifar-conv")

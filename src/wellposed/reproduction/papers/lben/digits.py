"""MNIST, convolutional: errors and constants of networks of 54 channels without a bound, and of a narrow one with γ = 0.5.

Where no GPU is at hand, small ones tell what a few hours of a CPU can tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from wellposed.reproduction.cell import Cell, Record
from wellposed.reproduction.networks import preset_with
from wellposed.reproduction.papers.lben.cifar import certified_cells, convolutional, errors_and_constants
from wellposed.reproduction.view import View

KINDS = ((0.0, "full", 54), (0.0, "identity", 54), (0.5, "full", 20))  # γ, metric, channels

# Test error in %, and the lower bound of the constant per normalised pixel.
PUBLISHED = {"full, γ = ∞": (0.89, 9.55), "identity, γ = ∞": (1.08, 4.71), "full, γ = 0.5": (6.08, 0.370)}

# Instead of the published 54 channels, stride of one and 25 epochs; and how many images are pressed.
SMALL_WIDTH, SMALL_STRIDE, SMALL_EPOCHS, SMALL_IMAGES = 24, 2, 2, 20


def cells(quick: bool) -> list[Cell]:
    """The three published networks."""
    kinds = KINDS[:1] if quick else KINDS
    configs = [convolutional(gamma, metric, quick=quick, width=width) for gamma, metric, width in kinds]
    return certified_cells([replace(config, data="mnist") for config in configs], quick)


def view(records: Sequence[Record]) -> View:
    """Errors and constants."""
    return errors_and_constants(records, "Convolutional networks on MNIST", "lben-mnist-conv", PUBLISHED, "")


def small_cells(quick: bool) -> list[Cell]:
    """The three networks with fewer channels behind a stride, after few epochs."""
    configs = [
        preset_with(
            "papers/cifar10-lben-conv", data="mnist", epochs=1 if quick else SMALL_EPOCHS,
            family={
                "gamma": gamma, "metric": metric, "width": 4 if quick else min(width, SMALL_WIDTH),
                "stride": 4 if quick else SMALL_STRIDE,
            },
        )
        for gamma, metric, width in (KINDS[:1] if quick else KINDS)
    ]  # fmt: skip
    return certified_cells(configs, quick, **({} if quick else {"images": SMALL_IMAGES}))


def small_view(records: Sequence[Record]) -> View:
    """Errors and constants of small networks."""
    differs = (
        f"the published networks have up to 54 channels and take every pixel, ours at most {SMALL_WIDTH} behind a stride of "
        f"{SMALL_STRIDE}, trained for {SMALL_EPOCHS} of 25 epochs"
    )
    title = "Small convolutional networks on MNIST"
    return errors_and_constants(records, title, "lben-mnist-conv-small", PUBLISHED, differs)

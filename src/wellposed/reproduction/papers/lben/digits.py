"""MNIST, convolutional: errors and constants of networks of 54 channels without a bound, and of a narrow one with γ = 0.5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from wellposed.reproduction.cell import Cell, Record
from wellposed.reproduction.papers.lben.cifar import certified_cells, convolutional, errors_and_constants
from wellposed.reproduction.view import View

KINDS = ((0.0, "full", 54), (0.0, "identity", 54), (0.5, "full", 20))  # γ, metric, channels

# Test error in %, and the lower bound of the constant per normalised pixel.
PUBLISHED = {"full, γ = ∞": (0.89, 9.55), "identity, γ = ∞": (1.08, 4.71), "full, γ = 0.5": (6.08, 0.370)}


def cells(quick: bool) -> list[Cell]:
    """The three published networks."""
    kinds = KINDS[:1] if quick else KINDS
    configs = [convolutional(gamma, metric, quick=quick, width=width) for gamma, metric, width in kinds]
    return certified_cells([replace(config, data="mnist") for config in configs], quick)


def view(records: Sequence[Record]) -> View:
    """Errors and constants."""
    return errors_and_constants(records, "Convolutional networks on MNIST", "lben-mnist-conv", PUBLISHED, "")

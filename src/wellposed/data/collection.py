"""Every data set by its name."""

from __future__ import annotations

from pathlib import Path

from wellposed.data.base import Data
from wellposed.data.graphs import load_graphs
from wellposed.data.images import load_images
from wellposed.data.vectors import load_vectors
from wellposed.names import inputs_of


def load(name: str, data_root: Path | None, *, fold: int, validation: float) -> Data:
    """A set by its name.

    Args:
        name: of the set.
        data_root: see `load_images`.
        fold: of graph sets, see `load_graphs`.
        validation: share of the training samples to hold out, see `TensorData.divided`; graph sets are divided by themselves.

    Raises:
        InputError: no set has that name.
        DataError: its files cannot be had.
    """
    inputs = inputs_of(name)
    if inputs == "graphs":
        return load_graphs(name, data_root, fold)
    found = load_vectors(name) if inputs == "vectors" else load_images(name, data_root)
    return found.divided(validation) if validation else found

"""Every data set by its name."""

from __future__ import annotations

from pathlib import Path

from wellposed.data.base import Data
from wellposed.data.graphs import GRAPH_NAMES, load_graphs
from wellposed.data.images import IMAGE_NAMES, load_images
from wellposed.data.own import is_file
from wellposed.data.vectors import VECTOR_NAMES, load_vectors
from wellposed.errors import choices

NAMES: dict[str, tuple[str, ...]] = {"images": IMAGE_NAMES, "vectors": VECTOR_NAMES, "graphs": GRAPH_NAMES}


def inputs_of(name: str) -> str:
    """What one sample of a set is: ``"images"``, ``"vectors"`` or ``"graphs"``.

    Raises:
        InputError: no set has that name.
    """
    choices("data", name, tuple(known for names in NAMES.values() for known in names))
    return next(inputs for inputs, names in NAMES.items() if name in names)


def is_own(name: str) -> bool:
    """Whether a name is the path of a user's own data; names of known sets are not."""
    return not any(name in names for names in NAMES.values()) and is_file(name)


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

"""Published weights as those of one of this library's networks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wellposed.errors import InputError, check
from wellposed.interop.files import Tensors


@dataclass(frozen=True)
class Published:
    """A family of networks with its options, and the tensors of its parts by name; float64.

    Attributes:
        family: name of the family.
        options: its hyper-parameters.
        layers: parameters and buffers of each equilibrium layer.
        head: of the last linear map, where the layer has none of its own.
        norms: of the batch normalisation after each layer, where there is one.
        windows: rows of what the head sees of a state with a border, where the size of the averages follows from it.
        raw_grey: whether grey images go in as pixels, without standardisation.
    """

    family: str
    options: dict[str, Any]
    layers: tuple[Tensors, ...]
    head: Tensors
    norms: tuple[Tensors, ...] = ()
    windows: int | None = None
    raw_grey: bool = False


def bound_of(path: Path, gamma: float | None) -> float | None:
    """The Lipschitz bound of a network: as given, or else from its file's name (``lip0.5`` or ``_L0.5``), if it has one.

    Raises:
        InputError: not positive.
    """
    check(gamma is None or gamma > 0.0, "gamma", gamma, "must be positive")
    found = re.findall(r"(?:^|[_-])(?:lip|L)(\d+(?:\.\d+)?)(?=[_-]|\.[A-Za-z]+$|$)", path.name)
    return float(found[0]) if gamma is None and len(found) == 1 else gamma


def needed(gamma: float | None) -> float:
    """The bound, for layouts that need it.

    Raises:
        InputError: there is none.
    """
    if gamma is None:
        raise InputError(
            "gamma=None: this layout needs its Lipschitz bound, which the file's name does not have; give --gamma"
        )
    return gamma

"""Published weights as the weights of a network of this library."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from wellposed.errors import CheckpointError, InputError, check
from wellposed.interop.files import Tensors


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Published:
    """A family of networks with its options, and the tensors of its parts by name; float64.

    Attributes:
        family: name of the family.
        options: its hyper-parameters.
        layers: parameters and buffers of each equilibrium layer.
        linears: of the linear maps after the layers, in order.
        norms: of the batch normalisation after each layer, where there is one.
        windows: rows of what the head sees of the last state, where that state is an image that is averaged over windows; their
            size follows from it, unless the one in the options fits.
        raw_grey: whether grey images go in as pixels, without standardisation.
    """

    family: str
    options: dict[str, Any]
    layers: tuple[Tensors, ...] = ()
    linears: tuple[Tensors, ...] = ()
    norms: tuple[Tensors, ...] = ()
    windows: int | None = None
    raw_grey: bool = False

    def __repr__(self) -> str:
        return f"Published({self.family}, {self.options})"


def bound_of(path: Path, gamma: float | None) -> float | None:
    """The Lipschitz bound of a network: as given, or else from its file's name (``lip0.5`` or ``_L0.5``), if it has one.

    Raises:
        InputError: not positive.
    """
    check(gamma is None or 0.0 < gamma < math.inf, "gamma", gamma, "must be positive and finite")
    found = re.findall(r"(?:^|[_-])(?:lip|L)(\d+(?:\.\d+)?)(?=[_-]|\.[A-Za-z]+$|$)", path.name)
    named = float(found[0]) if gamma is None and len(found) == 1 else gamma
    return named or None


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


def relative_margin(v: Tensor, m: float) -> float:
    """The margin m as constraints with a learned metric have it: over the mean eigenvalue of VᵀV plus one.

    Args:
        v: V, a matrix or a kernel; its first dimension counts its outputs.
        m: the margin.
    """
    return m / (1.0 + float(v.square().sum()) / len(v))


def windows_of(head: Tensor, channels: int) -> int:
    """Rows of the square images that a linear map on flattened images of so many channels sees.

    Raises:
        CheckpointError: it sees no such images.
    """
    side = math.isqrt(head.shape[-1] // max(channels, 1))
    if head.ndim != 2 or not side or side * side * channels != head.shape[1]:
        raise CheckpointError(f"the head has shape {tuple(head.shape)}, its columns are not {channels} square images")
    return side

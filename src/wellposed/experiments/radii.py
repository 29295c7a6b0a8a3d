"""The radii of tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wellposed.errors import InputError

if TYPE_CHECKING:
    from wellposed.training.about import AboutData

RADII = (0.05, 0.1, 0.2, 0.3, 0.5)  # unless others are given


def check_radii(radii: Sequence[float]) -> None:
    """Refuse radii that no ball has.

    Raises:
        InputError: there are none, or one is not positive and finite.
    """
    if not radii or any(not 0.0 < radius < float("inf") for radius in radii):
        raise InputError(f"eps={list(radii)}: radii must be positive and finite")


def radii_for(run: Path, given: Sequence[float] | None) -> tuple[float, ...]:
    """The radii of a run's tables: those that were given, else those that suit its data.

    Args:
        run: the run folder.
        given: None for the others.
    """
    if given is not None:
        return tuple(given)
    from wellposed.training.about import about_run

    return radii_of(about_run(run))


def radii_of(about: AboutData) -> tuple[float, ...]:
    """The radii that suit data, in their units and with two digits.

    Args:
        about: what is said of the data.
    """
    return RADII if about.scale == 1.0 else tuple(float(f"{about.scale * radius:.2g}") for radius in RADII)

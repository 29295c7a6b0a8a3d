"""The radii of tables."""

from __future__ import annotations

from collections.abc import Sequence

from wellposed.errors import InputError

RADII = (0.05, 0.1, 0.2, 0.3, 0.5)  # unless others are given


def check_radii(radii: Sequence[float]) -> None:
    """Refuse radii that no ball has.

    Raises:
        InputError: there are none, or one is not positive and finite.
    """
    if not radii or any(not 0.0 < radius < float("inf") for radius in radii):
        raise InputError(f"eps={list(radii)}: radii must be positive and finite")

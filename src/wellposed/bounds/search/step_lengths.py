"""How far along directions symmetric matrices stay positive definite."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_LENGTHS = (1.0, 0.97, 0.93, 0.88, 0.81, 0.72, 0.6, 0.45, 0.3, 0.15, 0.05, 0.01, 1e-3)  # that are tried
_AHEAD = 2  # places of them above a guess, where trials begin: lengths mostly grow


def longest(
    guesses: Sequence[float], largest: Sequence[float], trial: Callable[[list[int], list[float]], Tensor]
) -> list[float]:
    """For every search the largest of some lengths, from a little above a guess on, that keeps a matrix positive definite.

    Args:
        guesses: for each search.
        largest: that a length may be.
        trial: the matrices of some searches, by their places, at such lengths; shape (searches, n, n), or (n, n) for one.

    Returns:
        The lengths, zero where none does.
    """
    places = [max(_place(guess) - _AHEAD, _place(limit)) for guess, limit in zip(guesses, largest, strict=True)]
    found, left = [0.0] * len(places), [k for k, place in enumerate(places) if place < len(_LENGTHS)]
    while left:
        lengths = [_LENGTHS[places[k]] for k in left]
        failed = torch.linalg.cholesky_ex(trial(left, lengths))[1].reshape(-1).tolist()
        for k, length, wrong in zip(left, lengths, failed, strict=True):
            places[k], found[k] = places[k] + 1, 0.0 if wrong else length
        left = [k for k in left if not found[k] and places[k] < len(_LENGTHS)]
    return found


def _place(length: float) -> int:
    """That of the first of the lengths that is not larger."""
    return sum(tried > length for tried in _LENGTHS)

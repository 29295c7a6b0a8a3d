"""Certification of a monotone network without inputs, in the version of the library that the process imports.

Other checkouts load this file by its path: it imports nothing of the library but what every version has.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import nn

import wellposed as wp


class Certification:
    """`certify` of a new network at every run, so that nothing can be reused.

    Args:
        width: of the state.
    """

    def __init__(self, width: int) -> None:
        self._width, self._seed = width, 0
        warnings.simplefilter("ignore")

    def run(self, *tolerances: float) -> object:
        """Certify the next network."""
        self._seed += 1
        return wp.certify(self._network(self._seed))

    def errors(self, *tolerances: float) -> Sequence[float]:
        """The constant of one network, and the sum of those of its class pairs."""
        found = wp.certify(self._network(0))
        assert found.pairs is not None  # the outputs are classes
        return found.lipschitz, float(found.pairs.sum())

    def _network(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        front = wp.Normalize((0.1307,), (0.3081,)), nn.Flatten()
        return nn.Sequential(*front, wp.MonDEQ(784, self._width, m=1.0), nn.Linear(self._width, 10)).eval()


def of_width(width: int) -> Certification:
    """Certification of networks of a width."""
    return Certification(width)

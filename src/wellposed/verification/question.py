"""One question to a verifier: a region around an input, its class, and the classes that must not win there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from wellposed.certificates.affine_network import AffineNetwork, Centre
from wellposed.errors import CertificateError
from wellposed.verification.base import RegionQuestion
from wellposed.verified import gamma


@dataclass(frozen=True)
class Target:
    """A class that must not win: its margin ``row·z + constant``.

    Attributes:
        other: the class.
        row: shape (n,).
        constant: a number.
        error: of the margin anywhere in the region, from rounding the difference of two rows.
        metric: λ that suits this row, for the search of multipliers, shape (n,).
        base: a proved lower bound of the margin at the region's centre, less what must be left over.
    """

    other: int
    row: Tensor
    constant: float
    error: float
    metric: Tensor
    base: float


@dataclass(frozen=True, eq=False)
class Question(RegionQuestion):
    """What is asked, and the network at the centre of the region.

    Attributes:
        network: the numbers.
        centre: the network at the region's centre.
    """

    network: AffineNetwork
    centre: Centre

    @classmethod
    def of(cls, asked: RegionQuestion, network: AffineNetwork, centre: Centre) -> Question:
        """The question about a network."""
        return cls(**vars(asked), network=network, centre=centre)

    def target(self, other: int, metric: Tensor) -> Target:
        """The margin over another class."""
        network, centre = self.network, self.centre
        own, theirs = network.output[self.label], network.output[other]
        row = own - theirs
        constant = float(network.output_bias[self.label] - network.output_bias[other])
        error = (
            2.0**-52 * (float((own.abs() + theirs.abs()).norm()) * self._largest_state + abs(constant)) * (1.0 + 1e-9)
        )
        terms = float(row.abs() @ centre.state.abs()) + abs(constant)
        away = float(row.norm()) * centre.state_error + error
        base = (
            float(row @ centre.state) + constant - away * (1.0 + 1e-12) - gamma(len(row) + 16) * terms - self.allowance
        )
        return Target(other, row, constant, error, metric, base)

    @cached_property
    def _largest_state(self) -> float:
        """An upper bound of ‖z‖ on the region."""
        moved = self.network.offset_lipschitz * float(self.region.reach(self.network).norm())
        return float(self.centre.state.norm()) + self.centre.state_error + moved

    def counterexample(self, values: Tensor, points: Tensor) -> Tensor | None:
        """The first of some points, those of the least margins first, that is surely misclassified; None if none is."""
        for place in torch.argsort(values).tolist():
            if float(values[place]) >= 0.0:
                return None
            point = self.inside(points[place])
            if surely_wrong(self.network, point, self.label):
                return point
        return None


@torch.no_grad()
def surely_wrong(network: AffineNetwork, x: Tensor, label: int) -> bool:
    """Whether the logits of the stored numbers at one input surely have another class above the true one."""
    try:
        centre = network.centre(x)
    except CertificateError:
        return False
    rows = network.output - network.output[label]
    margin = rows @ centre.state + network.output_bias - network.output_bias[label]
    size = rows.norm(dim=1) * centre.state_error
    terms = (network.output.abs() + network.output[label].abs()) @ centre.state.abs()
    terms = terms + network.output_bias.abs() + network.output_bias[label].abs()
    surely = margin - size * (1.0 + 1e-12) - gamma(len(centre.state) + 16) * terms
    surely[label] = -torch.inf
    return bool((surely > 0.0).any())

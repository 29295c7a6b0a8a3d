"""One question to a verifier: a region around an input, its class, and the classes that must not win there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from wellposed.bounds.affine_network import AffineNetwork, Centre
from wellposed.numerics.outward import enlarged, rounding_constant
from wellposed.verification.base import RegionQuestion
from wellposed.verification.region import Region


@dataclass(frozen=True, eq=False, repr=False)
class Margins:
    """The margins of a class over all classes, ``rows·z + constants``, at the centres of regions; over itself it is zero.

    Attributes:
        rows: shape (*, classes, n).
        constants: shape (*, classes).
        errors: of the margins anywhere in the region, from rounding the difference of two rows, shape (*, classes).
        bases: proved lower bounds at the centre, less what must be left over; NaN where the solve did not converge.
    """

    rows: Tensor
    constants: Tensor
    errors: Tensor
    bases: Tensor

    def __repr__(self) -> str:
        return f"Margins(rows={tuple(self.rows.shape)})"

    @classmethod
    def of(cls, network: AffineNetwork, centre: Centre, region: Region, labels: Tensor, allowances: Tensor) -> Self:
        """The margins of one region, or of several with as many labels and allowances."""
        own, shift = network.output[labels], network.output_bias[labels]
        rows, constants = own[..., None, :] - network.output, shift[..., None] - network.output_bias
        moved = network.offset_lipschitz * region.reach(network).norm(dim=-1)
        largest = centre.state.norm(dim=-1) + centre.state_error + moved  # an upper bound of ‖z‖ on the region
        sizes = (own.abs()[..., None, :] + network.output.abs()).norm(dim=-1)
        # A difference rounds by one unit; the other one covers the rounding of these sums, and more.
        errors = rounding_constant(2) * (sizes * largest[..., None] + constants.abs())
        values = (rows @ centre.state[..., None])[..., 0] + constants
        terms = (rows.abs() @ centre.state.abs()[..., None])[..., 0] + constants.abs()
        away = rows.norm(dim=-1) * centre.state_error[..., None] + errors
        unit = rounding_constant(rows.shape[-1] + 16)
        bases = values - enlarged(away, rows.shape[-1] + 4) - unit * terms - allowances[..., None]
        return cls(rows, constants, errors, torch.where(centre.converged[..., None], bases, torch.nan))

    def __getitem__(self, rows: int | Tensor) -> Self:
        """The margins of some of the regions, or of one."""
        return type(self)(**{name: part[rows] for name, part in vars(self).items()})


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
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

    def __repr__(self) -> str:
        return f"Target(other={self.other}, base={self.base:.6g})"


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Question(RegionQuestion):
    """What is asked, and the network at the centre of the region.

    Attributes:
        network: the numbers.
        centre: the network at the region's centre.
        margins: of the label.
    """

    network: AffineNetwork
    centre: Centre
    margins: Margins

    @classmethod
    def of(cls, asked: RegionQuestion, network: AffineNetwork, centre: Centre, margins: Margins) -> Self:
        """The question about a network."""
        return cls(**vars(asked), network=network, centre=centre, margins=margins)

    def target(self, other: int, metric: Tensor) -> Target:
        """The margin over another class."""
        margins = self.margins
        constant, error, base = (float(part[other]) for part in (margins.constants, margins.errors, margins.bases))
        return Target(other=other, row=margins.rows[other], constant=constant, error=error, metric=metric, base=base)

    def counterexample(self, values: Tensor, points: Tensor) -> Tensor | None:
        """Of some points one that is surely misclassified, if any is; points with small values are tried first."""
        return counterexamples(self.network, [self] * len(points), values, points, [0] * len(points)).get(0)


def counterexamples(
    network: AffineNetwork, questions: Sequence[RegionQuestion], values: Tensor, points: Tensor, places: Sequence[int]
) -> dict[int, Tensor]:
    """For regions, by their places, a surely misclassified point of each that has one; those of the least margins come first.

    Args:
        network: the numbers.
        questions: that of each point.
        values: a margin at each point, shape (points,).
        points: shape (points, inputs).
        places: that of each point's question.
    """
    tried = [k for k in torch.argsort(values).tolist() if float(values[k]) < 0.0]
    if not tried:
        return {}
    inside = torch.stack([questions[k].inside(points[k]) for k in tried])
    wrong = surely_wrong(network, inside, torch.tensor([questions[k].label for k in tried], device="cpu")).tolist()
    found: dict[int, Tensor] = {}
    for k, point, lost in zip(tried, inside, wrong, strict=True):
        if lost:
            found.setdefault(places[k], point)
    return found


@torch.no_grad()
def surely_wrong(network: AffineNetwork, x: Tensor, labels: Tensor) -> Tensor:
    """Whether the logits of the stored numbers surely have another class above the true one.

    Args:
        network: the numbers.
        x: shape (batch, inputs).
        labels: shape (batch,).

    Returns:
        Boolean, shape (batch,).
    """
    return wrong_at(network, network.centre(x), labels)


@torch.no_grad()
def wrong_at(network: AffineNetwork, centre: Centre, labels: Tensor) -> Tensor:
    """Whether the logits surely have another class above the true one, for inputs where the network is known.

    Args:
        network: the numbers.
        centre: the network at inputs of shape (batch, inputs).
        labels: shape (batch,).

    Returns:
        Boolean, shape (batch,).
    """
    rows = network.output - network.output[labels][:, None, :]
    shift = network.output_bias[labels][:, None]
    margin = (rows @ centre.state[:, :, None])[:, :, 0] + network.output_bias - shift
    sizes = rows.norm(dim=2) * centre.state_error[:, None]
    heads = network.output.abs() + network.output[labels].abs()[:, None, :]
    terms = (heads @ centre.state.abs()[:, :, None])[:, :, 0] + network.output_bias.abs() + shift.abs()
    units = centre.state.shape[1]
    surely = margin - enlarged(sizes, units + 3) - rounding_constant(units + 16) * terms
    surely = surely.scatter(1, labels[:, None], -torch.inf)
    return (surely > 0.0).any(1) & centre.converged

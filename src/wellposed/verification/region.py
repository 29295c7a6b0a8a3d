"""Sets of inputs around one input: Euclidean balls, and boxes clipped to valid pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from wellposed.bounds.affine_network import AffineNetwork
from wellposed.numerics.outward import enlarged, enlarged_norm, enlarged_sum, rounding_constant

_INSIDE = 1.0 - 1e-12  # of the radius, for points of a ball that need not reach its surface


@dataclass(frozen=True, eq=False, repr=False)
class Region:
    """A ball ``‖x − centre‖₂ ≤ radius``, or a box ``|x − centre| ≤ widths``; or several of one kind. All float64.

    Attributes:
        centre: shape (*, inputs).
        radius: of the ball, shape (*); for a box, of the ball around it.
        widths: of the box, shape (*, inputs); None for a ball.
    """

    centre: Tensor
    radius: Tensor
    widths: Tensor | None = None

    def __repr__(self) -> str:
        return f"Region({'ball' if self.widths is None else 'box'}, centre={tuple(self.centre.shape)})"

    @classmethod
    def stack(cls, regions: Sequence[Self]) -> Self:
        """Several regions of one kind as one, with a dimension in front."""
        widths = [region.widths for region in regions if region.widths is not None]
        centres, radii = (torch.stack([getattr(region, name) for region in regions]) for name in ("centre", "radius"))
        return cls(centres, radii, torch.stack(widths) if widths else None)

    def __getitem__(self, rows: int | Tensor) -> Self:
        """Some of the regions, or one."""
        return type(self)(self.centre[rows], self.radius[rows], None if self.widths is None else self.widths[rows])

    @classmethod
    def ball(cls, x: Tensor, radius: float) -> Self:
        """The Euclidean ball."""
        return cls(x.detach().double().cpu().reshape(-1), torch.tensor(radius, dtype=torch.float64, device="cpu"))

    @classmethod
    def box(cls, x: Tensor, radius: float, valid: tuple[float, float] | None = (0.0, 1.0)) -> Self:
        """The points of the ℓ∞ ball that are valid pixels: a box around its own middle, rounded outwards.

        Args:
            x: an input whose entries are valid.
            radius: of the ℓ∞ ball.
            valid: the range of pixels, or None for any number.
        """
        x = x.detach().double().cpu().reshape(-1)
        low, high = x - radius, x + radius
        if valid is not None:
            low, high = low.clamp_min(valid[0]), high.clamp_max(valid[1])
        middle = 0.5 * (low + high)
        widths = torch.maximum(high - middle, middle - low)
        # The ends round by a unit of their size, which is at most |middle| + width, and the widths by one of their own.
        widths = enlarged(widths + rounding_constant(2) * (widths + middle.abs()), 2)
        return cls(middle, enlarged_norm(widths.norm(), widths.numel()), widths)

    def reach(self, network: AffineNetwork) -> Tensor:
        """Upper bounds of |U(x − centre)| for the points x, shape (*, n)."""
        by_radius = enlarged(network.row_norms * self.radius[..., None], 1)
        if self.widths is None:
            return by_radius
        by_width = enlarged_sum(self.widths @ network.weight.abs().t(), self.widths.shape[-1] + 1) * (
            1.0 + network.folding
        )
        return torch.minimum(by_width, by_radius)

    def gram(self, network: AffineNetwork, shares: Tensor | None = None) -> Tensor:
        """A matrix whose square root maps the unit ball onto an ellipsoid that has all U(x − centre) inside, for one region.

        Up to rounding, see `gram_error`.

        Args:
            network: U.
            shares: d, positive, shape (inputs,): the box lies in the ellipsoid Σ d_i x_i² ≤ Σ d_i·widths_i². None for equal ones.
        """
        if self.widths is None:
            return self.radius**2 * network.gram
        if shares is None:
            return float(self.widths.square().sum()) * network.gram
        total = float((shares * self.widths.square()).sum())
        return total * (network.weight / shares) @ network.weight.t()

    def lift(self, network: AffineNetwork, pull: Tensor, shares: Tensor | None = None) -> Tensor:
        """The changes of the input, of least norm as the ellipsoid has it, that belong to directions ξ; shape (inputs, q).

        Args:
            network: U.
            pull: P of a `Relaxed`, shape (n, q).
            shares: d of the ellipsoid Σ d_i x_i² ≤ Σ d_i·widths_i², shape (inputs,); None for equal ones.
        """
        if shares is None or self.widths is None:
            square = float(self.radius**2 if self.widths is None else self.widths.square().sum())
            return square * (network.weight.t() @ pull)
        total = float((shares * self.widths.square()).sum())
        return total * (network.weight.t() @ pull) / shares[:, None]

    def gram_error(self, network: AffineNetwork) -> float:
        """What rounding, that of U's entries included, can change in `gram`, as a fraction of its trace."""
        return 2.0 * rounding_constant(network.weight.shape[1] + 16) + 2.0 * network.folding

    def project(self, x: Tensor) -> Tensor:
        """The points of one region, or of a region for each, that are nearest to points of shape (batch, inputs), by its norm."""
        change = x - self.centre
        if self.widths is not None:
            return self.centre + change.clamp(-self.widths, self.widths)
        size = change.norm(dim=1, keepdim=True)
        return self.centre + change * (self.radius[..., None] * _INSIDE / size.clamp_min(1e-300)).clamp_max(1.0)

    def extreme(self, gradient: Tensor) -> Tensor:
        """The points of one region, or of a region for each, where linear functions with gradients (batch, inputs) are least."""
        if self.widths is not None:
            return self.centre - self.widths * gradient.sign()
        size = gradient.norm(dim=1, keepdim=True).clamp_min(1e-300)
        return self.centre - gradient * (self.radius[..., None] * _INSIDE / size)

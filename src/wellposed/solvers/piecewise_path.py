"""The path of an equilibrium of z = σ(Wz + q) with a piecewise linear σ while the offset moves along a line.

On each piece the equilibrium moves along a line too, up to where a unit comes to a kink; there its slope changes, and the path
goes on (Katzenelson 1965). Where every I − DW with slopes D is nonsingular and their determinants have one sign, as for all
maps with a guarantee, a unit that has come to a kink goes on beyond it, no piece is visited twice, and the number of pieces is
finite. A change of one slope is a change of rank one, so that a crossing costs n² operations.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from wellposed.numerics.linear_algebra import inverse
from wellposed.solvers.flat_problem import FlatProblem

_FRESH = 64  # crossings after which the inverse is formed anew


def follow_pieces(problem: FlatProblem, near: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """The end of the path that begins near a point, and how many kinks were crossed.

    Args:
        problem: with an activation that is linear between its ``kinks``.
        near: shape (batch, n).
        steps: limit on the crossings of each sample.
    """
    path = _Path(problem, near)
    taken = torch.zeros(len(near), dtype=torch.int64, device=near.device)
    for crossing in range(steps):
        moving = path.share < 1.0
        if not bool(moving.any()):
            break
        if crossing % _FRESH == 0:
            path.refresh()
        path.cross(moving)
        taken += moving
    return path.value(), taken


class _Path:
    """Where the samples are on their paths: the share of the way, pre-activations, and between which kinks each unit is."""

    def __init__(self, problem: FlatProblem, near: Tensor) -> None:
        kinks = problem.activation.kinks
        assert kinks is not None
        self.problem = problem
        self.kinks = near.new_tensor([-math.inf, *kinks, math.inf])
        self.driven, _, offset = problem.known(near)
        self.change = problem.offset - offset
        self.share = near.new_zeros(len(near))
        self.piece = torch.bucketize(self.driven, self.kinks[1:-1])  # kinks[piece] < driven ≤ kinks[piece + 1]
        # A number inside of each piece, whose slope is that of the piece.
        ends = (kinks[0] - 1.0, *kinks, kinks[-1] + 1.0) if kinks else (0.0, 0.0)
        inner = [(low + high) / 2.0 for low, high in itertools.pairwise(ends)]
        self.inner = near.new_tensor(inner)
        self.refresh()

    def refresh(self) -> None:
        """Form (I − DW)⁻¹ of the present slopes."""
        self.slopes = self.problem.slopes(self.inner[self.piece])
        self.inverse = inverse(self.problem.system(self.slopes))

    def cross(self, moving: Tensor) -> None:
        """Go on to the next kink, or to the end."""
        # d(pre-activations)/d(share) = (I − WD)⁻¹·change = change + W·(I − DW)⁻¹D·change.
        pushed = torch.bmm(self.inverse, (self.slopes * self.change)[:, :, None]).squeeze(2)
        speed = self.change + torch.mm(pushed, self.problem.matrix.t())
        ahead = self.kinks[self.piece + (speed > 0).long()]
        wait = ((ahead - self.driven) / speed).clamp_min(0.0).nan_to_num(nan=math.inf)
        wait = torch.where(torch.isinf(ahead) | (speed == 0.0), math.inf, wait)  # there is no kink to come to
        length, unit = wait.min(1)
        rest = 1.0 - self.share
        ends = length >= rest
        length = torch.where(moving, torch.minimum(length, rest), 0.0)
        self.driven = self.driven + length[:, None] * speed
        self.share = torch.where(moving & ends, 1.0, self.share + length)
        self._switch(moving & ~ends, unit, speed)

    def _switch(self, rows: Tensor, unit: Tensor, speed: Tensor) -> None:
        """Change the slope of one unit of some samples, which has come to a kink."""
        index = rows.nonzero().squeeze(1)
        if not len(index):
            return
        at = unit[index]
        up = speed[index, at] > 0
        self.driven[index, at] = self.kinks[self.piece[index, at] + up.long()]
        self.piece[index, at] += torch.where(up, 1, -1)
        changed = self.problem.select(index).slopes(self.inner[self.piece[index]])
        delta = (changed - self.slopes[index]).gather(1, at[:, None])
        self.slopes[index] = changed
        own = self.inverse[index]
        column = own.gather(2, at[:, None, None].expand(-1, own.shape[1], 1)).squeeze(2)
        row = torch.bmm(self.problem.matrix[at][:, None, :], own).squeeze(1)
        pivot = 1.0 - delta * row.gather(1, at[:, None])  # Sherman & Morrison 1950
        self.inverse[index] = own + (delta / pivot)[:, :, None] * column[:, :, None] * row[:, None, :]

    def value(self) -> Tensor:
        """The equilibria where the samples are."""
        return self.problem.image(self.driven)

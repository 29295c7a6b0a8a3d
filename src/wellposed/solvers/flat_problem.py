"""Equations z = σ(Wz + q) with W as a matrix and states as vectors: what Newton's method works on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.activations import Activation
from wellposed.numerics.brief import Brief
from wellposed.solvers.problem import AffineProblem

_FAR_BELOW = -20.0
_ENTRIES = 1 << 24  # of the matrices of all samples that are formed at a time


def rows_at_a_time(batch: int, states: int, device: torch.device) -> tuple[Tensor, ...]:
    """The samples of a batch in groups for which matrices of the state's size can be formed together."""
    most = max(1, _ENTRIES // max(states * states, 1))
    return torch.arange(batch, device=device).split(most) if batch else ()


@dataclass(frozen=True, eq=False, repr=False)
class FlatProblem(Brief):
    """z = σ(Wz + q) for some samples.

    Attributes:
        matrix: W, shape (n, n).
        offset: q, shape (batch, n).
        activation: σ, for states of the shape (batch, *state).
        shape: of one state.
    """

    matrix: Tensor
    offset: Tensor
    activation: Activation
    shape: torch.Size

    @classmethod
    def of(cls, problem: AffineProblem, matrix: Tensor) -> FlatProblem:
        """The flattened form of a problem whose matrix is known."""
        return cls(matrix, problem.offset.flatten(1), problem.activation, problem.offset.shape[1:])

    def select(self, rows: Tensor) -> FlatProblem:
        """The problem of some samples only."""
        return FlatProblem(self.matrix, self.offset[rows], self.activation.select(rows), self.shape)

    def driven(self, value: Tensor) -> Tensor:
        """Wz + q."""
        return torch.addmm(self.offset, value, self.matrix.t())

    def image(self, driven: Tensor) -> Tensor:
        """σ of pre-activations."""
        return self.activation(driven.reshape(-1, *self.shape)).flatten(1)

    def slopes(self, driven: Tensor) -> Tensor:
        """σ' at pre-activations."""
        return self.activation.derivative(driven.reshape(-1, *self.shape)).flatten(1)

    def system(self, slopes: Tensor) -> Tensor:
        """I − DW for the slopes of each sample, shape (batch, n, n)."""
        identity = torch.eye(len(self.matrix), dtype=self.matrix.dtype, device=self.matrix.device)
        return identity - slopes[:, :, None] * self.matrix

    def known(self, near: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pre-activations v, states σ(v), and the offsets v − Wσ(v) for which these are equilibria, near the problem's.

        Args:
            near: states where to look; other places are v = 0, and v far below, where σ may vanish.
        """
        driven, value, offset = self._at(self.driven(near))
        for other in (torch.zeros_like(self.offset), torch.full_like(self.offset, _FAR_BELOW)):
            found = self._at(other)
            closer = ((found[2] - self.offset).norm(dim=1) < (offset - self.offset).norm(dim=1))[:, None]
            driven, value, offset = (
                torch.where(closer, new, old) for new, old in zip(found, (driven, value, offset), strict=True)
            )
        return driven, value, offset

    def _at(self, driven: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        value = self.image(driven)
        return driven, value, driven - torch.mm(value, self.matrix.t())

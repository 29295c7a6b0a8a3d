"""Boxes that an equation z = σ(Wz + q) maps into themselves, for all offsets q between two.

For W = D + P − N with D its diagonal and P, N ≥ 0, and a box [l, u] of states, every offset in [a, b] has its equilibrium inside
if

    σ(Dl + Pl − Nu + a) ≥ l   and   σ(Du + Pu − Nl + b) ≤ u :

the damped map (1 − α)z + ασ(Wz + q), α ≤ 1/(1 − min(D, 0)), increases in z's own coordinate and so maps the box into itself; a
fixed point in it exists by Brouwer's theorem, and where there is no other this is it (the embedded network of Jafarpour et al.
2022, arXiv 2208.03889, checked instead of trusted). The box is found by iteration, a little too wide, and the two inequalities
are the whole proof.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from wellposed.activations import Activation
from wellposed.errors import CertificateError
from wellposed.numerics.outward import TINY, rounding_constant
from wellposed.operators.base import Operator
from wellposed.solvers.anderson import Anderson
from wellposed.solvers.problem import MapProblem

_STEPS = 2000
# In which precision boxes are looked for, and by how much the offsets are widened, relative to them: room for rounding.
_SEARCHES = ((torch.float32, 1e-5), (torch.float64, 1e-8), (torch.float64, 1e-5))
_PATIENCE = 40  # steps without getting closer
_CLOSE = 0.5  # of the room: how near a box must come to the one that it tends to


class StateBoxes:
    """Boxes of equilibria of one W and σ; that there is but one equilibrium for each offset must be known otherwise.

    Args:
        name: of the layer, for errors.
        operator: W.
        activation: σ.

    Raises:
        CertificateError: W is neither a matrix nor a zero-padded convolution, or σ does not increase with slopes of at most one.
    """

    def __init__(self, name: str, operator: Operator, activation: Activation) -> None:
        if not activation.is_monotone:
            raise CertificateError(f"{name}: intervals need an increasing activation with slopes of at most one")
        exact = operator.to(torch.float64)
        exact = exact.rebuild(tuple(tensor.detach().cpu() for tensor in exact.tensors))
        known, embedding = exact.coefficients(), exact.embedding()
        if known is None or embedding is None:
            raise CertificateError(
                f"{name}: intervals are for matrices and zero-padded convolutions, not W = {operator!r}"
            )
        self._activation, self._embedding = activation, embedding
        self._absolute = exact.rebuild((exact.tensors[0].abs(), *exact.tensors[1:]))
        self._diagonal = known.weight[known.own].reshape(-1, *[1] * (len(exact.state_shape) - 1))
        # Of one product with the embedding in float64, relative to that of absolute values.
        self._rounding = 2.0 * rounding_constant(2 * known.weight[0].numel() + 16)

    def enclose(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes for the equilibria of all offsets between two, for a batch, and of which of them that is proved.

        Args:
            low: least offsets, shape (batch, *state_shape), float64.
            high: largest offsets, of the shape of ``low``.

        Returns:
            Shapes (batch, *state_shape), twice, and (batch,).
        """
        inside = torch.zeros_like(torch.stack([low, high], 1))
        proved = torch.zeros(len(low), dtype=torch.bool, device="cpu")
        for dtype, widened in _SEARCHES:
            rest = (~proved).nonzero()[:, 0]
            if not len(rest):
                break
            least, most = low[rest], high[rest]
            room = widened * (1.0 + torch.maximum(least.abs(), most.abs()))
            offsets = torch.stack([least - room, most + room], 1)
            ends = (inside[rest], offsets, _CLOSE * room[:, None])  # where the search before has led, and to where
            inside[rest] = self._search(*(end.to(dtype) for end in ends)).double()
            lower, upper = self._activated(inside[rest]).unbind(1)
            proved[rest] = self.holds(lower, upper, least, most)
        lower, upper = self._activated(inside).unbind(1)
        return lower, upper, proved

    def _activated(self, inside: Tensor) -> Tensor:
        """σ of the ends of boxes, shape (batch, 2, *state_shape)."""
        return self._activation(inside.flatten(0, 1)).unflatten(0, (-1, 2))

    def holds(self, lower: Tensor, upper: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Which boxes are proved to have the equilibria of all offsets between two, rounding included.

        Args:
            lower: lower ends of the boxes, shape (batch, *state_shape), float64.
            upper: upper ends, of the shape of ``lower``.
            low: least offsets, of the shape of ``lower``.
            high: largest offsets, of the shape of ``lower``.

        Returns:
            Boolean, shape (batch,).
        """
        largest = torch.maximum(lower.abs(), upper.abs())
        sizes = self._absolute.apply(largest) + torch.maximum(low.abs(), high.abs())
        error = self._rounding * sizes + TINY
        driven = _driven(self._embedding, torch.stack([lower, upper], 1))
        below, above = self._activation.interval(driven[:, 0] + low - error, driven[:, 1] + high + error)
        return ((below >= lower) & (above <= upper) & (lower <= upper)).flatten(1).all(1)

    def _search(self, start: Tensor, offsets: Tensor, close: Tensor) -> Tensor:
        """What σ is taken of at the two ends that the damped iteration comes to, until each is close or stands still.

        It proves nothing. Where σ is taken of v and W's embedding gives v again but for less than the room, σ(v) is a box: that σ
        increases is enough, and zeros of ReLU are exact.

        Args:
            start: where it begins, shape (batch, 2, *state_shape).
            offsets: the least and the largest ones, of the shape of ``start``.
            close: how near is near enough, shape (batch, 1, *state_shape).
        """
        embedding = self._embedding.to(offsets.dtype)
        step = (1.0 / (1.0 - self._diagonal.clamp_max(0.0))).to(offsets)

        def of(samples: Tensor) -> Callable[[Tensor], Tensor]:
            given = offsets[samples]
            return lambda v: torch.lerp(v, _driven(embedding, self._activated(v)) + given, step)

        rows, found = torch.arange(len(offsets), device="cpu"), torch.zeros_like(offsets)
        iteration = Anderson().bind(MapProblem(of(rows), of), None, start, start)
        nearest = torch.full((len(offsets),), math.inf, dtype=offsets.dtype, device="cpu")
        since = torch.zeros_like(nearest)
        for count in range(_STEPS):
            iteration.advance()
            away = ((iteration.image - iteration.point).abs() / (step * close)).flatten(1).amax(1)
            closer = away < 0.99 * nearest
            nearest, since = torch.where(closer, away, nearest), torch.where(closer, 0.0, since + 1.0)
            done = (away <= 1.0) | (since >= _PATIENCE) | (count == _STEPS - 1)
            if bool(done.any()):
                found[rows[done]] = iteration.point[done]
                left = (~done).nonzero()[:, 0]
                if not len(left):
                    break
                rows, close, nearest, since = (part[left] for part in (rows, close, nearest, since))
                iteration.select(left)
        return found


def _driven(embedding: Operator, box: Tensor) -> Tensor:
    """Dl + Pl − Nu and Du + Pu − Nl of boxes, lower ends first, shape (batch, 2, *state_shape)."""
    return embedding.apply(box.flatten(1, 2)).unflatten(1, (2, -1))

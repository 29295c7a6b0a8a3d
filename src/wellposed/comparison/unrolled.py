"""Splitting iterations as explicit networks (Pabbaraju, Winston & Kolter 2021, Appendix D): why a bound of its own is needed.

The iterations of a monotone layer are a deep network with the same weights everywhere, whose product of norms bounds its
Lipschitz constant, and grows without bound with the depth unless the step is small.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.errors import InputError, check, check_number, choices
from wellposed.layers.equilibrium import Equilibrium
from wellposed.numerics.verified import spectral_norm_upper_bound


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Unrolled:
    """``h₁ = σ(first·x + …)``, ``h_{k+1} = σ(hidden·h_k + …)``, σ on the rows of ``active`` only; the state is ``h[state]``.

    Attributes:
        first: from the input to the first hidden layer.
        hidden: from each hidden layer to the next.
        first_bias: of the first.
        bias: of the further ones.
        active: which rows pass the activation, boolean.
        state: which rows are the equilibrium's approximation.
        layer: the layer.
    """

    first: Tensor
    hidden: Tensor
    first_bias: Tensor
    bias: Tensor
    active: Tensor
    state: slice
    layer: Equilibrium

    def __repr__(self) -> str:
        return f"Unrolled({type(self.layer).__name__}, {len(self.hidden)} units a layer)"

    def evaluate(self, x: Tensor, depth: int) -> Tensor:
        """The state after so many iterations from zero; x of shape (batch, inputs), float64."""
        check(depth >= 1, "depth", depth, "must be positive")
        value = self._active(x @ self.first.t() + self.first_bias)
        for _ in range(depth - 1):
            value = self._active(value @ self.hidden.t() + self.bias)
        return value[:, self.state]

    def depth_within(self, x: Tensor, tolerance: float, limit: int) -> int | None:
        """How many iterations from zero the published stopping rule takes: until ‖Δz‖ ≤ tolerance·(10⁻⁶ + ‖z‖) over a batch.

        The rule is about changes, and says nothing of the error.

        Args:
            x: shape (batch, inputs), float64.
            tolerance: relative, positive.
            limit: on the iterations.

        Returns:
            The number, or None where the limit is not enough.
        """
        check_number("tolerance", tolerance, 0.0, math.inf, "must be positive")
        value, before = self._active(x @ self.first.t() + self.first_bias), None
        for depth in range(1, limit + 1):
            state = value[:, self.state]
            moved = state if before is None else state - before
            if float(moved.norm()) <= tolerance * (1e-6 + float(state.norm())):
                return depth
            before, value = state, self._active(value @ self.hidden.t() + self.bias)
        return None

    def _active(self, value: Tensor) -> Tensor:
        return torch.where(self.active, self.layer.activation(value), value)

    def log10_bound(self, depth: int) -> float:
        """Decimal logarithm of the product of the norms of so many layers: a bound of the unrolled map's Lipschitz constant."""
        check(depth >= 1, "depth", depth, "must be positive")
        logarithms = [math.log10(spectral_norm_upper_bound(part)) for part in (self.first, self.hidden)]
        return logarithms[0] + (depth - 1) * logarithms[1]


@torch.no_grad()
def unrolled(layer: Equilibrium, algorithm: str, step: float) -> Unrolled:
    """The network that an operator splitting with a fixed step is.

    Args:
        layer: a layer on flat inputs with a linear input map; for Peaceman–Rachford with ReLU, whose resolvent it is.
        algorithm: ``"forward_backward"`` or ``"peaceman_rachford"``.
        step: α.
    """
    choices("algorithm", algorithm, ("forward_backward", "peaceman_rachford"))
    check(step > 0.0, "step", step, "must be positive")
    stored, driven = layer.operator().matrix(), layer.injection.matrix()
    if stored is None or driven is None:
        raise InputError(f"layer={type(layer).__name__}: needs a state map and an input map that are matrices")
    matrix, weight, bias = stored.detach().double().cpu(), driven.weight.cpu(), driven.bias.cpu()
    size, inputs = weight.shape
    eye, one = torch.eye(size, dtype=torch.float64, device="cpu"), torch.eye(inputs, dtype=torch.float64, device="cpu")
    none = torch.zeros(inputs, dtype=torch.float64, device="cpu")
    if algorithm == "forward_backward":
        # (z, x): z ← σ((1 − α)z + α(Wz + Ux + b)).
        hidden = torch.cat([torch.cat([(1.0 - step) * eye + step * matrix, step * weight], 1), _kept(size, one)])
        shift = torch.cat([step * bias, none])
        active = torch.arange(size + inputs, device="cpu") < size
        first = torch.cat([step * weight, one])
        return Unrolled(
            first=first, hidden=hidden, first_bias=shift, bias=shift, active=active, state=slice(0, size), layer=layer
        )
    # (u, z, x): u ← 2V(2z − u + α(Ux + b)) − 2z + u, z ← σ(u), V = (I + α(I − W))⁻¹.
    resolvent = torch.linalg.inv_ex(eye + step * (eye - matrix))[0]
    driven = 2.0 * step * resolvent @ weight
    row = torch.cat([eye - 2.0 * resolvent, 4.0 * resolvent - 2.0 * eye, driven], 1)
    hidden = torch.cat([row, row, _kept(2 * size, one)])
    shift = torch.cat([2.0 * step * resolvent @ bias] * 2 + [none])
    places = torch.arange(2 * size + inputs, device="cpu")
    active = (places >= size) & (places < 2 * size)
    first, state = torch.cat([driven, driven, one]), slice(size, 2 * size)
    return Unrolled(first=first, hidden=hidden, first_bias=shift, bias=shift, active=active, state=state, layer=layer)


def _kept(before: int, one: Tensor) -> Tensor:
    """The rows that carry x on."""
    return torch.cat([torch.zeros(len(one), before, dtype=torch.float64, device="cpu"), one], 1)

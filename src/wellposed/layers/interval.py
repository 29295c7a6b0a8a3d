"""Intervals of equilibria for intervals of inputs: the equilibrium of a network of twice the size, differentiable.

For W = D + P − N with D its diagonal and P, N ≥ 0, all equilibria for offsets in [a, b] lie between the two halves of

    l = σ((D + P)l − Nu + a),   u = σ((D + P)u − Nl + b)

(the embedded network of Jafarpour et al. 2022, arXiv 2208.03889). Its matrix [[D + P, −N], [−N, D + P]] has the log norm μ_∞,η of
W, so that the theorem that W is well posed by holds for it, too. What is computed here is for training: rounding and tolerances
of the solve are not counted.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wellposed.errors import GuaranteeError
from wellposed.guarantee.componentwise import Componentwise
from wellposed.implicit import AffineEquation, Settings
from wellposed.layers.equilibrium import Equilibrium
from wellposed.numerics.linear_algebra import full_precision
from wellposed.operators import Operator
from wellposed.operators.dense import Dense
from wellposed.operators.zero_padded import ZeroPadded
from wellposed.solvers import solver_named


def state_interval(layer: Equilibrium, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of the equilibria for all inputs between two, in every component; differentiable, and attained for P, U ≥ 0.

    Args:
        layer: with a matrix or a zero-padded convolution, a componentwise guarantee and an increasing activation.
        low: least inputs, shape (batch, *input_shape).
        high: largest inputs, shape (batch, *input_shape).

    Returns:
        Two tensors of shape (batch, *state_shape).

    Raises:
        GuaranteeError: the layer is of another kind.
    """
    operator, guarantee = layer.materialise()
    if not isinstance(guarantee, Componentwise) or not layer.activation.is_monotone:
        raise GuaranteeError(f"{type(layer).__name__}: intervals need a bound of μ∞(W) and slopes in [0, 1]")
    with full_precision(low.device):
        doubled = _doubled(operator)
        offset = torch.cat(layer.injection.interval(low, high), 1)
        promise = guarantee.on(doubled)
        settings = Settings(
            solver=solver_named(promise.preferred), tolerance=layer.tolerance, max_steps=layer.max_steps,
            on_failure=layer.on_failure, gradient=layer.gradient, certified=False,
            name=f"interval of {type(layer).__name__}",
        )  # fmt: skip
        equation = AffineEquation(doubled, layer.activation, promise, settings)
        value, _ = equation.run(None, (*doubled.tensors, offset, *layer.activation.tensors))
    below, above = value.chunk(2, 1)
    return below, above


def _doubled(operator: Operator) -> Operator:
    """[[D + P, −N], [−N, D + P]]."""
    weight = operator.tensors[0]
    own = torch.eye(len(weight), dtype=torch.bool, device=weight.device)
    if isinstance(operator, ZeroPadded):
        centre = torch.zeros_like(weight, dtype=torch.bool)
        centre[:, :, weight.shape[2] // 2, weight.shape[3] // 2] = own
        own = centre
    elif not isinstance(operator, Dense):
        raise GuaranteeError(f"W: intervals are for matrices and zero-padded convolutions, not {operator!r}")
    kept = torch.where(own, weight, weight.clamp_min(0.0))
    crossed = torch.where(own, 0.0, weight.clamp_max(0.0))
    matrix = torch.cat([torch.cat([kept, crossed], 1), torch.cat([crossed, kept], 1)])
    return Dense(matrix) if isinstance(operator, Dense) else ZeroPadded(matrix, operator.image)

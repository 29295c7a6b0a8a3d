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
from wellposed.implicit import AffineEquation, Settings
from wellposed.layers.equilibrium import Equilibrium
from wellposed.layers.inputs import in_precision_of
from wellposed.numerics.linear_algebra import full_precision
from wellposed.numerics.uncompiled import uncompiled
from wellposed.solvers import solver_for


@uncompiled
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
    low, high = (in_precision_of(layer, end) for end in (low, high))
    operator, guarantee = layer.materialise()
    with full_precision(low.device):
        doubled = operator.embedding()
        if doubled is None:
            raise GuaranteeError(f"W: intervals are for matrices and zero-padded convolutions, not {operator!r}")
        promise = None if guarantee is None else guarantee.embedded(doubled)
        if promise is None or not layer.activation.is_monotone:
            raise GuaranteeError(f"{type(layer).__name__}: intervals need a bound of μ∞(W) and slopes in [0, 1]")
        offset = torch.cat(layer.injection.interval(low, high), 1)
        settings = Settings(
            solver=solver_for(promise), tolerance=layer.tolerance, max_steps=layer.max_steps,
            on_failure=layer.on_failure, gradient=layer.gradient, certified=False,
            name=f"interval of {type(layer).__name__}",
        )  # fmt: skip
        equation = AffineEquation(operator=doubled, activation=layer.activation, guarantee=promise, settings=settings)
        value, _ = equation.run(None, (*doubled.tensors, offset, *layer.activation.tensors))
    below, above = value.chunk(2, 1)
    return below, above

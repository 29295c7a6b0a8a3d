"""How far an equilibrium moves when the weights do (Pabbaraju, Winston & Kolter 2021, Theorem 2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from wellposed.errors import CertificateError, InputError, checked_options
from wellposed.layers.equilibrium import Equilibrium
from wellposed.maps.affine import Matrix
from wellposed.network import Network
from wellposed.network.single import single_layer
from wellposed.numerics.euclidean import euclidean, underflow
from wellposed.numerics.outward import UNIT, enlarged, enlarged_norm, next_up
from wellposed.numerics.verified import spectral_norm_upper_bound
from wellposed.solvers.a_posteriori import ExactOffset


@torch.no_grad()
@checked_options
def perturbation_bound(layer: nn.Module | Network, perturbed: nn.Module | Network, x: Tensor) -> Tensor:
    """Bound on ‖z*(x) − z̄*(x)‖₂ between two monotone layers with σ(0) = 0, per sample.

    ``‖W̄ − W‖·‖Ux + b‖/(m·m̄) + ‖(Ū − U)x + b̄ − b‖/m̄``, with m and m̄ proved for the stored numbers. Every rounding
    error is counted; infinite where a term overflows.

    Args:
        layer: the layer with weights W, U, b, or its network.
        perturbed: one of the same shape with weights W̄, Ū, b̄.
        x: inputs, shape (batch, in_features).

    Returns:
        Shape (batch,), float64.

    Raises:
        InputError: the layers differ in shape.
        CertificateError: a layer is not strongly monotone, or its activation is not zero at zero.
    """
    given, moved = single_layer("layer", layer), single_layer("perturbed", perturbed)
    if (given.in_features, given.state_features) != (moved.in_features, moved.state_features):
        raise InputError("perturbed: has another shape than layer")
    if not isinstance(x, Tensor) or x.ndim != 2 or x.shape[1] != given.in_features or not bool(torch.isfinite(x).all()):
        raise InputError(
            f"x: has shape {tuple(getattr(x, 'shape', ()))}; must be a finite tensor of shape (batch, {given.in_features})"
        )
    if repr(given.activation) != repr(moved.activation):
        raise InputError(f"perturbed: has the activation {moved.activation!r}, layer has {given.activation!r}")
    (matrix, first), (other_matrix, second) = (_monotone(part) for part in (given, moved))
    given.activation.require_zero_at_zero("layer")
    driven, other_driven = (_input_matrix(part) for part in (given, moved))
    rows = x.detach().cpu()
    change = _distance(matrix, other_matrix)
    offset = _norm_bound(driven.exact(rows))
    # One rounding of every difference is one more of the weights.
    differences = other_driven.weight - driven.weight, other_driven.bias - driven.bias
    drift = _norm_bound(Matrix.of(*differences, roundings=1).exact(rows))
    bound = next_up(next_up(change * first) * second) * offset + drift * second
    # Two sums, two products and one more sum, and products that underflow; what overflows (an infinity less another, or times
    # zero) is infinite.
    lost = underflow(torch.float64, 1, 1) * (1.0 + first) * (1.0 + second) * (1.0 + offset)
    bound = enlarged(bound, 4) + lost
    return bound.nan_to_num(nan=math.inf, posinf=math.inf).to(x.device)


def _monotone(layer: Equilibrium) -> tuple[Tensor, float]:
    """W of a strongly monotone layer, and a bound of 1/m.

    Raises:
        CertificateError: the layer is of another kind.
    """
    operator, guarantee = layer.materialise()
    matrix = operator.matrix()
    if matrix is None:
        raise CertificateError("layer: needs a state map that is a matrix, not a convolution")
    metric = None if guarantee is None else guarantee.diagonal_metric()
    if guarantee is None or metric is None or not bool((metric == 1.0).all()):
        raise CertificateError("layer: Theorem 2 is about layers that are strongly monotone in the Euclidean metric")
    return matrix, guarantee.offset_lipschitz()


def _norm_bound(value: ExactOffset) -> Tensor:
    """Upper bounds of the Euclidean norms of what is known with an error."""
    return enlarged_norm(euclidean(value.value), value.value.shape[1]) + value.error


def _distance(first: Tensor, second: Tensor) -> float:
    """Upper bound of the spectral norm of a difference of stored matrices, its rounding included."""
    difference = second.cpu().double() - first.cpu().double()
    if not bool(torch.isfinite(difference).all()):
        return math.inf
    # Of every entry it is at most a unit roundoff, which together have at most the Frobenius norm.
    rounding = UNIT * enlarged_norm(float(euclidean(difference.reshape(1, -1))), difference.numel())
    return next_up(spectral_norm_upper_bound(difference) + rounding + underflow(first.dtype, first.numel(), 1))


def _input_matrix(layer: Equilibrium) -> Matrix:
    found = layer.injection.matrix()
    if found is None:
        raise CertificateError("layer: needs an input map that is a matrix")
    return found.cpu()

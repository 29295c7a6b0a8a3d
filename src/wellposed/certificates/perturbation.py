"""How far an equilibrium moves when the weights do (Pabbaraju, Winston & Kolter 2021, Theorem 2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from wellposed.errors import CertificateError, InputError
from wellposed.layers.equilibrium import Equilibrium, exact_linear
from wellposed.network import Network
from wellposed.network.single import single_layer
from wellposed.numerics.euclidean import euclidean, underflow
from wellposed.numerics.outward import next_up
from wellposed.numerics.verified import spectral_norm_upper_bound
from wellposed.solvers.a_posteriori import ExactOffset


@torch.no_grad()
def perturbation_bound(layer: nn.Module | Network, perturbed: nn.Module | Network, x: Tensor) -> Tensor:
    """Bound on ‖z*(x) − z̄*(x)‖₂ between two monotone layers, per sample.

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
        CertificateError: a layer is not strongly monotone.
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
    fixes_zero("layer", given)
    weight, other_weight = (part.injection.weight.detach().cpu().double() for part in (given, moved))
    bias, other_bias = (_bias(part) for part in (given, moved))
    rows = x.detach().cpu()
    change = _distance(matrix, other_matrix)
    offset = _norm_bound(exact_linear(rows, weight, bias))
    # One rounding of every difference is one more of the weights.
    drift = _norm_bound(exact_linear(rows, other_weight - weight, other_bias - bias, roundings=1))
    bound = next_up(next_up(change * first) * second) * offset + drift * second
    # The last few operations, and products that underflow; what overflows (an infinity less another, or times zero) is infinite.
    lost = underflow(torch.float64, 1, 1) * (1.0 + first) * (1.0 + second) * (1.0 + offset)
    bound = bound * (1.0 + 16.0 * torch.finfo(torch.float64).eps) + lost
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
    entries = value.value.shape[1]
    return euclidean(value.value) * (1.0 + (entries + 8) * torch.finfo(torch.float64).eps) + value.error


def _distance(first: Tensor, second: Tensor) -> float:
    """Upper bound of the spectral norm of a difference of stored matrices, its rounding included."""
    difference = second.cpu().double() - first.cpu().double()
    if not bool(torch.isfinite(difference).all()):
        return math.inf
    # |difference| has at most the Frobenius norm.
    rounding = 1.01 * 2.0**-53 * float(euclidean(difference.reshape(1, -1)))
    return next_up(spectral_norm_upper_bound(difference) + rounding + underflow(first.dtype, first.numel(), 1))


def fixes_zero(name: str, layer: Equilibrium) -> None:
    """Refuse activations with σ(0) ≠ 0: both theorems bound ‖z*‖ by ‖Ux + b‖/m.

    Raises:
        CertificateError: σ(0) is not zero.
    """
    if float(layer.activation(torch.zeros((), dtype=torch.float64))) != 0.0:
        raise CertificateError(
            f"{name}: the theorem needs an activation that is zero at zero, not {layer.activation!r}"
        )


def _bias(layer: Equilibrium) -> Tensor:
    bias = layer.injection.bias
    return torch.zeros(layer.state_features, dtype=torch.float64) if bias is None else bias.detach().cpu().double()

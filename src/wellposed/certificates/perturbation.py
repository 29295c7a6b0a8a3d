"""How far an equilibrium moves when the weights do (Pabbaraju, Winston & Kolter 2021, Theorem 2)."""

from __future__ import annotations

import torch
from torch import Tensor

from wellposed.errors import CertificateError, InputError
from wellposed.guarantee import StronglyMonotone
from wellposed.layers.equilibrium import Equilibrium
from wellposed.network.constants import rounded_up
from wellposed.norms import euclidean
from wellposed.operators.dense import Dense
from wellposed.verified import spectral_norm_upper_bound


@torch.no_grad()
def perturbation_bound(layer: Equilibrium, perturbed: Equilibrium, x: Tensor) -> Tensor:
    """Bound on ‖z*(x) − z̄*(x)‖₂ between two monotone layers, per sample.

    ``‖W̄ − W‖·‖Ux + b‖/(m·m̄) + (‖(Ū − U)x‖ + ‖b̄ − b‖)/m̄``, with m and m̄ proved for the stored numbers.

    Args:
        layer: the layer with weights W, U, b.
        perturbed: one of the same shape with weights W̄, Ū, b̄.
        x: inputs, shape (batch, in_features).

    Returns:
        Shape (batch,), float64.

    Raises:
        InputError: the layers differ in shape.
        CertificateError: a layer is not strongly monotone.
    """
    if (layer.in_features, layer.state_features) != (perturbed.in_features, perturbed.state_features):
        raise InputError("perturbed: has another shape than layer")
    if x.ndim != 2 or x.shape[1] != layer.in_features or not bool(torch.isfinite(x).all()):
        raise InputError(f"x: has shape {tuple(x.shape)}; must be finite, of shape (batch, {layer.in_features})")
    if repr(layer.activation) != repr(perturbed.activation):
        raise InputError(f"perturbed: has the activation {perturbed.activation!r}, layer has {layer.activation!r}")
    operator, guarantee = layer.materialise()
    other_operator, other = perturbed.materialise()
    if not isinstance(operator, Dense) or not isinstance(other_operator, Dense):
        raise CertificateError("layer: needs a state map that is a matrix, not a convolution")
    fixes_zero("layer", layer)
    if not isinstance(guarantee, StronglyMonotone) or not isinstance(other, StronglyMonotone):
        raise CertificateError("layer: Theorem 2 is about strongly monotone layers")
    if operator.metric is not None or other_operator.metric is not None:
        raise CertificateError("layer: Theorem 2 is about monotonicity in the Euclidean metric")
    change = spectral_norm_upper_bound(other_operator.dense().double() - operator.dense().double())
    rows = x.double()
    weight, other_weight = layer.injection.weight.double(), perturbed.injection.weight.double()
    bias, other_bias = (_bias(part) for part in (layer, perturbed))
    offset = euclidean(rows @ weight.t() + bias)
    drift = euclidean(rows @ (other_weight - weight).t()) + (other_bias - bias).norm()
    first = rounded_up(change * guarantee.offset_lipschitz() * other.offset_lipschitz())
    # Relative rounding of the float64 products above is far below 1e-10.
    return (first * offset + drift * other.offset_lipschitz()) * (1.0 + 1e-10)


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
    return layer.injection.weight.new_zeros(layer.state_features).double() if bias is None else bias.double()

"""Convolutional layers: their taps, or their matrices at every frequency, as they run, and what bounds their sensitivity."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wellposed.activations import name_of
from wellposed.bounds.frequency_metric import circular_metric_problem
from wellposed.certificates.evidence.norms import checkable_convolution_norm, rounded_product
from wellposed.guarantee.channelwise import Channelwise
from wellposed.guarantee.frequencywise import FrequencywiseMonotone, ScaledStronglyMonotone
from wellposed.layers.conv_equilibrium import ConvEquilibrium
from wellposed.layers.conv_lben import ConvLBEN
from wellposed.layers.conv_mondeq import ConvMonDEQ
from wellposed.layers.conv_nemon import ConvNEMON
from wellposed.layers.multi_scale_mondeq import MultiScaleMonDEQ
from wellposed.operators.multi_scale import MultiScale
from wellposed.operators.scaled_circular import ScaledCircular

DESCRIBED = (ConvMonDEQ, ConvNEMON, MultiScaleMonDEQ, ConvLBEN)


@torch.no_grad()
def describe_convolutional(
    layer: ConvEquilibrium | ConvLBEN, name: str, value: float
) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Entry and tensors of one layer; None where the checker knows no such activation.

    Args:
        layer: one of `DESCRIBED`.
        name: of the block.
        value: its Euclidean constant.
    """
    sigma = layer.activation.interior
    activation = name_of(sigma) if sigma.is_monotone else None
    if activation is None:
        return None
    operator, guarantee = layer.materialise()
    stride = layer.injection.stride if isinstance(layer, ConvLBEN) else layer.injection.stride[0]
    entry: dict[str, Any] = {
        "activation": activation, "input_image": list(layer.input_shape[1:]), "stride": stride
    }  # fmt: skip
    norm = checkable_convolution_norm(layer.injection.weight, layer.injection_norm())
    tensors: dict[str, Tensor] = {}
    if isinstance(layer, ConvLBEN):
        assert isinstance(operator, ScaledCircular) and isinstance(guarantee, ScaledStronglyMonotone)
        known = _scaled(layer, operator, guarantee, value)
        return {**entry, **known[0]}, {f"{name}/{key}": tensor.detach().cpu() for key, tensor in known[1].items()}
    if isinstance(guarantee, Channelwise):
        proof = guarantee.norm_proof
        entry.update(kind="channels", value=max(value, rounded_product(norm, proof.value, 1.0 + 1e-12)))
        tensors.update(matrix=operator.tensors[0], start=proof.start, reach=proof.reach, back=proof.back)
    else:
        assert isinstance(guarantee, FrequencywiseMonotone)
        least = guarantee.m * (1.0 - 1e-12)  # the checker's proof rounds otherwise
        entry.update(monotonicity=least, value=max(value, rounded_product(norm, 1.0 / least, 1.0 + 1e-15)))
    if isinstance(operator, MultiScale):
        entry.update(kind="scales", images=[list(image) for image in operator.images])
        tensors.update({f"tier.{k}": torch.view_as_real(part.resolve_conj()) for k, part in enumerate(operator.own)})
        tensors.update(
            {f"into.{k}": torch.view_as_real(part.resolve_conj()) for k, part in enumerate(operator.into, 1)}
        )
    elif isinstance(layer, ConvMonDEQ):
        block = circular_metric_problem(layer)
        entry.update(kind="circular", border=layer.injection.border, image=list(layer.state_shape[1:]))
        tensors["transfer"] = torch.view_as_real(operator.tensors[0].resolve_conj())
        if block is not None and block.constant_gram is not None:
            tensors["gram"] = block.constant_gram
    return entry, {f"{name}/{key}": tensor.detach().cpu() for key, tensor in tensors.items()}


def _scaled(
    layer: ConvLBEN, operator: ScaledCircular, guarantee: ScaledStronglyMonotone, value: float
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What is said of a layer in a diagonal metric."""
    entry: dict[str, Any] = {
        "kind": "scaled", "image": list(layer.state_shape[1:]), "output": layer.output is not None,
        "border": int(layer.activation.interior is not layer.activation), "in_metric": operator.driven is None,
    }  # fmt: skip
    tensors = {
        "scale": operator.scale, "transfer": torch.view_as_real(operator.transfer.resolve_conj()), "input": layer.injection.weight
    }  # fmt: skip
    if layer.output is None:
        least = guarantee.m * (1.0 - 1e-11)
        norm = checkable_convolution_norm(layer.injection.weight, layer.injection_norm())
        bound = norm / (float(operator.scale.detach().double().amin()) * least) * (1.0 + 1e-13)
        entry.update(monotonicity=least, input_norm=norm, value=max(value, bound))
        return entry, tensors
    assert operator.factor is not None
    tensors.update(factor=operator.factor, output=layer.output.weight)
    # A little above the bound that the library proves there is room for the checker's coarser rounding.
    bound = value * (1.0 + 1e-6)
    factor = operator.factor.detach().double().cpu()
    seen = layer.output.spread(layer.output.weight.detach().double().cpu())
    square = (float((seen * factor).sum()) / float(factor.square().sum())) ** 2 if float(factor.norm()) > 0.0 else 1.0
    multiplier = 0.5 * square / bound * (1.0 + 5e-7)
    entry.update(pool=layer.output.pool, multiplier=multiplier, value=bound)
    if operator.driven is not None:
        tensors["driven"] = torch.view_as_real(operator.driven.resolve_conj())
        own = operator.driven.to("cpu", torch.complex128)
        through = layer.injection.transfer(layer.injection.weight.double()).cpu()
        room = torch.linalg.eigvalsh(2.0 * own @ own.mH - multiplier / bound * through @ through.mH)[..., 0].amin()
        entry["around"] = 1e-11 * float(own.abs().square().sum((2, 3)).amax()) + 1.01 * max(-float(room), 0.0)
    return entry, tensors

"""Circular convolutional layers: their matrices at every frequency, as they run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wellposed.activations import Bordered, monotone_names
from wellposed.activations import activation as activation_named
from wellposed.certificates.evidence.norms import checkable_convolution_norm, rounded_product
from wellposed.certificates.frequency_metric import circular_block
from wellposed.guarantee.frequencywise import CircularStronglyMonotone
from wellposed.layers.conv_mondeq import ConvMonDEQ


@torch.no_grad()
def describe_circular(layer: ConvMonDEQ, name: str, value: float) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Entry and tensors of one layer; None where the checker knows no such activation.

    Args:
        layer: the layer.
        name: of the block.
        value: its Euclidean constant.
    """
    sigma = layer.activation.rest if isinstance(layer.activation, Bordered) else layer.activation
    activation = next((key for key in monotone_names() if activation_named(key) == sigma), None)
    block = circular_block(layer)
    if activation is None or block is None:
        return None
    operator, guarantee = layer.materialise()
    assert isinstance(guarantee, CircularStronglyMonotone)
    monotonicity = guarantee.m * (1.0 - 1e-12)  # the checker's proof rounds otherwise
    norm = checkable_convolution_norm(layer.injection.weight, layer.injection_norm())
    entry = {
        "kind": "circular", "activation": activation, "border": layer.injection.border, "image": list(layer.state_shape[1:]),
        "input_image": list(layer.input_shape[1:]), "stride": layer.injection.stride[0], "monotonicity": monotonicity,
        "value": max(value, rounded_product(norm, 1.0 / monotonicity, 1.0 + 1e-15)),
    }  # fmt: skip
    tensors = {f"{name}/transfer": torch.view_as_real(operator.tensors[0].resolve_conj()).cpu()}
    if block.constant_gram is not None:
        tensors[f"{name}/gram"] = block.constant_gram
    return entry, tensors

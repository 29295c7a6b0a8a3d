"""Positive concave layers: a state below all fixed points, and vectors that bound the sensitivity."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from wellposed.activations import name_of
from wellposed.certificates.evidence.norms import checkable_convolution_norm, checkable_norm, rounded_product
from wellposed.guarantee.positive import PositiveConcave
from wellposed.layers.conv_pcdeq import ConvPcDEQ
from wellposed.layers.pcdeq import PcDEQ
from wellposed.operators.dense import Dense
from wellposed.operators.zero_padded import ZeroPadded


def describe_positive(
    layer: PcDEQ | ConvPcDEQ, name: str, value: float | None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Entry and tensors of one layer.

    Args:
        layer: the layer, in eval mode.
        name: of the block.
        value: its Euclidean constant; None in other norms, where `describe_components` adds what bounds the sensitivity.
    """
    operator, guarantee = layer.materialise()
    assert isinstance(guarantee, PositiveConcave) and isinstance(operator, Dense | ZeroPadded)
    injection, sigma = layer.injection, layer.activation
    entry: dict[str, Any] = {
        "kind": "positive", "activation": name_of(sigma),
        "parametrisation": layer.constraint.parametrisation, "batch_norm": injection.norm is not None,
        "image": injection.numbers().as_convolution() is not None,
    }  # fmt: skip
    if injection.norm is not None:
        entry["epsilon"] = injection.norm.eps
    driven = injection.numbers().as_convolution()
    if driven is not None:
        entry.update(input_image=list(driven.image), stride=driven.stride[0], padding=driven.padding[0])
    tensors = {"matrix": operator.tensors[0], "floor": guarantee.floor_state, "perron": guarantee.contraction_weights}
    if value is not None:
        proof = guarantee.norm_proof
        tensors.update(start=proof.start, reach=proof.reach, back=proof.back)
        norm = (checkable_convolution_norm if entry["image"] else checkable_norm)(
            injection.numbers().weight, layer.injection_norm()
        )
        entry["value"] = max(value, rounded_product(norm, proof.value, 1.0 + 1e-12))
    return entry, {f"{name}/{key}": tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}

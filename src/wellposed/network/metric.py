"""What a diagonal metric proves of an equilibrium layer that promises nothing by itself."""

from __future__ import annotations

import torch

from wellposed.errors import CertificateError
from wellposed.guarantee.metric_search import find_metric
from wellposed.guarantee.monotone import ProvedMonotone
from wellposed.layers.equilibrium import Equilibrium
from wellposed.operators.dense import Dense


def metric_guarantee(name: str, layer: Equilibrium) -> ProvedMonotone | None:
    """For a layer that promises nothing, what a diagonal metric proves; None where the layer has a guarantee of its own.

    Args:
        name: of the layer, for errors.
        layer: any affine layer.

    Raises:
        CertificateError: no metric proves it well posed, or its state map is no matrix.
    """
    with torch.no_grad():
        operator, guarantee = layer.materialise()
    if guarantee is not None:
        return None
    stored = operator.matrix()
    if stored is None or not layer.activation.is_monotone:
        raise CertificateError(f"{name}: nothing is promised of this layer; its equilibrium may not be unique")
    matrix = stored.detach().double().cpu()
    metric = operator.remembered("metric that makes it well posed", lambda: find_metric(matrix))
    if metric is None:
        raise CertificateError(
            f"{name}: no diagonal metric proves this layer well posed; its equilibrium may not be unique"
        )
    return ProvedMonotone(Dense(matrix, metric=metric))

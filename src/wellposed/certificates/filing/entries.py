"""The entries of a certificate file, block by block."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from wellposed.bounds.diagonal_metric import dense_metric_problem
from wellposed.bounds.factor import Factor
from wellposed.bounds.frequency_metric import circular_metric_problem
from wellposed.bounds.tail_bound import TailBound
from wellposed.layers.equilibrium import Equilibrium
from wellposed.network import Network
from wellposed.network.description import Description
from wellposed.network.kinds import Block

Entries = list[dict[str, Any]]


@torch.no_grad()
def entries(
    network: Network, factors: tuple[Factor, ...] | None, metric_bound: TailBound | None
) -> tuple[Entries, dict[str, Tensor]]:
    """The entries of the blocks of a network, and the tensors that prove what they say.

    Args:
        network: what the certificate is about.
        factors: the blocks' constants; None in norms in which they have none of their own.
        metric_bound: what diagonal metrics prove of the last layer with its head.
    """
    found, tensors = Entries(), {}
    for place, block in enumerate(network.blocks):
        factor = None if factors is None else factors[place]
        value = None if factor is None else factor.value
        path, state = network.path_of(block.name), block.module.state_dict()
        # Numbers that have no name of their own in the model's weights cannot be compared with them.
        known = block.computes_as if path is not None or not state else None
        described = Description() if known is None else block.describe(value)
        if described.in_metric:
            described = _in_metric(
                block, described, None if metric_bound is not None and metric_bound.place == place else value
            )
        prefix = f"{path}." if path else ""
        found.append({
            "name": block.name, "class": block.kind if described.kind == "other" else known,
            "value": value if described.value is None else described.value, "reason": "" if factor is None else factor.reason,
            "kind": described.kind, "tensors": {role: prefix + role for role in state}, **described.options,
        })  # fmt: skip
        tensors.update({f"{block.name}/{name}": tensor for name, tensor in described.tensors.items()})
    return found, tensors


def _in_metric(block: Block, described: Description, value: float | None) -> Description:
    """A description with what proves the constants of the layer in a diagonal metric.

    Args:
        block: an equilibrium layer.
        described: what the block says of itself.
        value: its own constant; None where nothing needs one, as a metric bound covers it.
    """
    layer = block.affine_layer
    assert layer is not None
    if described.value is None:
        return described if value is None else _with_multipliers(layer, described, value)
    problem = circular_metric_problem(layer)
    if problem is None or problem.constant_gram is None:
        return described
    return replace(described, tensors={**described.tensors, "gram": problem.constant_gram})


def _with_multipliers(layer: Equilibrium, described: Description, value: float) -> Description:
    """A description with a constant of a dense layer and the metric that proves it; without a kind where none is found."""
    problem = dense_metric_problem(layer)
    eye = torch.eye(layer.state_features, dtype=torch.float64, device="cpu")
    rows = eye if layer.output is None else layer.output.weight.detach().double().cpu()
    bound = None if problem is None else problem.bound(rows)
    if bound is None:
        return Description()
    tensors = {**described.tensors, "multipliers": bound.multipliers}
    return replace(described, value=max(value, bound.value), tensors=tensors)
